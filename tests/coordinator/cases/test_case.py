"""case.toml and --set: every wrong word gets one message that names the key, what came and what is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.cases.case import KINDS
from stepalign.coordinator.cases.loading import assign, load_case
from stepalign.protocol.errors import CaseError


def error_of(folder: Path, *assignments: str, **overrides: Any) -> str:
    with pytest.raises(CaseError) as caught:
        load_case(folder, assignments, **overrides)
    message = str(caught.value)
    assert message.count("\n") == 0 and "Traceback" not in message
    assert caught.value.exit_code == 2
    return message


def test_defaults_are_those_of_the_contract(make_case: Any) -> None:
    case = load_case(make_case("", name="my_port"))
    file = case.file
    assert (case.name, case.steps, file.mode, file.dtype, file.seed) == ("my_port", 10, "eval", "float32", 0)
    assert (file.torch.python, file.paddle.python, file.torch.device) == ("torch", "paddle", "auto")
    assert (file.weights.source, file.weights.rename, file.weights.transpose, file.weights.ignore) == (
        "torch",
        (),
        (),
        (),
    )
    assert (file.compare.resync, file.compare.strict) == (0, False)
    assert (file.schedule.steps, file.schedule.chosen_milestones()) == (5000, (100, 500, 1000, 2000, 4000))
    assert case.script("torch") == make_case().parent / "my_port" / "torch_side.py"


def test_every_key_of_the_contract_is_read(make_case: Any) -> None:
    case = load_case(
        make_case(
            'name = "n"\nsteps = 7\nmode = "train"\ndtype = "float64"\nseed = 3\n'
            "options = { hidden = 128, deep = { list = [1, 2.5, 'x', true] } }",
            torch='python = "/usr/bin/python3"\ndevice = "gpu:1"\nenv = { A = "b" }',
            paddle='device = "cpu"',
            data='arrays = { ids = "a.npy" }',
            tables='[weights]\nsource = "none"\nrename = [["^a", "b"]]\ntranspose = ["x.*"]\nignore = ["y"]\n'
            '[collect]\nactivations = ["layer.*"]\nkinds = ["gradient"]\n[compare]\nresync = 5\nstrict = true\n'
            "[tolerance]\nloss = { rtol = 1e-5, atol = 0 }\n[schedule]\nsteps = 50\nmilestones = [1, 49]",
        )
    ).file
    assert case.options == {"hidden": 128, "deep": {"list": [1, 2.5, "x", True]}}
    assert (case.torch.device, case.torch.env, case.data.arrays) == ("gpu:1", {"A": "b"}, {"ids": "a.npy"})
    assert (case.weights.rename, case.weights.transpose) == ((("^a", "b"),), ("x.*",))
    assert (case.tolerance["loss"].rtol, case.tolerance["loss"].atol) == (1e-5, 0.0)
    assert case.schedule.chosen_milestones() == (1, 49)
    assert (case.collect.activations, case.collect.kinds, case.compare.resync) == (("layer.*",), ("gradient",), 5)


def test_the_view_that_scripts_see_has_the_contracts_fields(make_case: Any) -> None:
    view = load_case(make_case("steps = 4\noptions = { a = 1 }")).view()
    assert (view.name, view.steps, view.mode, view.dtype, view.seed, view.options) == (
        "case",
        4,
        "eval",
        "float32",
        0,
        {"a": 1},
    )
    assert view.folder.is_absolute()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ({"head": "step = 3"}, "step: unknown key; did you mean 'steps'?"),
        ({"tables": "[comapre]\nstrict = true"}, "comapre: unknown key; did you mean 'compare'?"),
        ({"tables": "[compare]\nstirct = true"}, "compare.stirct: unknown key; did you mean 'strict'?"),
        ({"tables": "[weights]\nzzz = 1"}, "weights.zzz: unknown key; known keys: ignore, rename, source, transpose"),
        ({"torch": 'pyhton = "x"'}, "torch.pyhton: unknown key; did you mean 'python'?"),
        ({"tables": "[tolerance]\nloss = { rtoll = 1.0 }"}, "tolerance.loss.rtoll: unknown key; did you mean 'rtol'?"),
        ({"head": "steps = 0"}, "steps: expected a whole number of at least 1, got 0"),
        ({"head": "steps = -4"}, "steps: expected a whole number of at least 1, got -4"),
        ({"head": "steps = 2.5"}, "steps: expected a whole number, got 2.5"),
        ({"head": "steps = '3'"}, "steps: expected a whole number, got '3'"),
        ({"head": "steps = true"}, "steps: expected a whole number, got True"),
        ({"head": "steps = 99999999999999999999"}, "steps: expected a whole number of at most 64 bits"),
        ({"head": "seed = -1"}, "seed: expected a whole number of at least 0, got -1"),
        ({"head": "seed = 4294967296"}, "seed: expected less than 2**32"),
        ({"head": "mode = 'test'"}, "mode: expected 'eval' or 'train', got 'test'"),
        ({"head": "dtype = 'float16'"}, "dtype: expected 'float32' or 'float64', got 'float16'"),
        ({"head": "name = 3"}, "name: expected a string, got 3"),
        ({"head": "threads = -1"}, "threads: expected a whole number of at least 0, got -1"),
        ({"head": "options = { day = 2020-01-01 }"}, "options.day: expected a string, a number"),
        (
            {"head": "options = { n = [1, 99999999999999999999] }"},
            "options.n[1]: expected a whole number of at most 64 bits",
        ),
        ({"head": "options = [1]"}, "options: expected a table, got [1]"),
        ({"torch": 'device = "cuda"'}, 'torch.device: expected "auto", "cpu", "gpu" or "gpu:1", got \'cuda\''),
        ({"paddle": "env = { A = 1 }"}, "paddle.env.A: expected a string, got 1"),
        ({"paddle": 'env = { "A=B" = "1" }'}, "paddle.env: 'A=B' cannot be an environment variable"),
        ({"paddle": 'env = { A = "\\u0000" }'}, "paddle.env: 'A' cannot be an environment variable"),
        ({"data": ""}, 'data: give one of source = "data.npz"'),
        ({"data": 'source = "a.npz"\narrays = { a = "b.npy" }'}, "data: give one of source"),
        (
            {"tables": '[weights]\nsource = "tensorflow"'},
            'weights.source: expected "torch", "paddle", "none", a .npz or',
        ),
        ({"tables": '[weights]\nsource = "none.npz"'}, "weights.source: no file"),
        ({"tables": '[weights]\nrename = [["(", "x"]]'}, "weights.rename[0]: '(' is not a regular expression"),
        ({"tables": '[weights]\nrename = [["a"]]'}, "weights.rename[0]: expected a list of 2, got ['a']"),
        ({"tables": '[weights]\nrename = [["a", 1]]'}, "weights.rename[0][1]: expected a string, got 1"),
        ({"tables": '[weights]\nignore = "a"'}, "weights.ignore: expected a list, got 'a'"),
        ({"tables": "[compare]\nresync = -1"}, "compare.resync: expected a whole number of at least 0, got -1"),
        ({"tables": "[compare]\nstrict = 1"}, "compare.strict: expected true or false, got 1"),
        ({"tables": '[collect]\nkinds = ["loss"]'}, "collect.kinds[0]: expected 'gradient' or"),
        ({"tables": "[collect]\nbudget_mib = 0"}, "collect.budget_mib: expected a whole number of at least 1, got 0"),
        ({"tables": "[tolerance]\nlosses = { rtol = 1.0 }"}, "tolerance.losses: unknown kind; the kinds are batch,"),
        (
            {"tables": "[tolerance]\nloss = { rtol = -1.0 }"},
            "tolerance.loss.rtol: expected a number of at least 0, got -1.0",
        ),
        (
            {"tables": "[tolerance]\nloss = { atol = nan }"},
            "tolerance.loss.atol: expected a number of at least 0, got nan",
        ),
        (
            {"tables": "[tolerance]\nloss = { atol = inf }"},
            "tolerance.loss.atol: expected a number of at least 0, got inf",
        ),
        ({"tables": "[tolerance]\nloss = 1e-5"}, "tolerance.loss: expected a table, got 1e-05"),
        ({"tables": "[schedule]\nsteps = 0"}, "schedule.steps: expected a whole number of at least 1, got 0"),
        (
            {"tables": "[schedule]\nsteps = 50\nmilestones = [50]"},
            "schedule.milestones: 50 is not one of the steps 0 to 49",
        ),
        ({"tables": "[schedule]\nmilestones = [-1]"}, "schedule.milestones: -1 is not one of the steps"),
        ({"tables": "[deadline]\nstep_s = 0"}, "deadline.step_s: expected seconds, more than 0"),
        ({"tables": "[deadline]\nstep_s = nan"}, "deadline.step_s: expected seconds"),
        ({"tables": "[deadline]\nstop_s = inf"}, "deadline.stop_s: expected seconds"),
        ({"head": "steps = = 3"}, "is not TOML"),
        ({"head": "steps = 1\nsteps = 2"}, "is not TOML"),
    ],
)
def test_a_wrong_value_gets_one_message_with_its_path(make_case: Any, toml: dict[str, str], message: str) -> None:
    folder = make_case(**toml)
    assert f"{folder / 'case.toml'}" in error_of(folder)
    assert message in error_of(folder)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_text('[torch]\nscript = "t.py"\n', encoding="utf-8")
    assert "paddle: this key is missing" in error_of(tmp_path)


def test_a_missing_script_is_named_with_its_full_path(make_case: Any) -> None:
    folder = make_case()
    (folder / "paddle_side.py").unlink()
    assert f"paddle.script: no file {folder / 'paddle_side.py'}" in error_of(folder)


def test_no_case_says_how_to_write_one(tmp_path: Path) -> None:
    assert f"`stepalign init {tmp_path / 'nowhere'}` writes one" in error_of(tmp_path / "nowhere")


def test_bytes_that_are_not_text_are_not_toml(tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not TOML" in error_of(tmp_path)


def test_the_file_itself_may_be_named(make_case: Any) -> None:
    assert load_case(make_case() / "case.toml").name == "case"


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("steps=7", ("steps",), 7),
        ("compare.resync=5", ("compare", "resync"), 5),
        ("options.hidden=64", ("options", "hidden"), 64),
        ("hidden=64", ("options", "hidden"), 64),
        ("rate=3e-5", ("options", "rate"), 3e-5),
        ("flag=true", ("options", "flag"), True),
        ("layers=[1, 2]", ("options", "layers"), [1, 2]),
        ("label=resnet-18", ("options", "label"), "resnet-18"),
        ("label=", ("options", "label"), ""),
        ("label=a=b", ("options", "label"), "a=b"),
        ('label="7"', ("options", "label"), "7"),
        ("label=1\nsteps=9", ("options", "label"), "1\nsteps=9"),
        ("options.deep.er=1", ("options", "deep", "er"), 1),
        ("torch.device=cpu", ("torch", "device"), "cpu"),
        (" steps = 7 ", ("steps",), 7),
    ],
)
def test_set_assigns_toml_values_or_plain_strings(assignment: str, path: tuple[str, ...], value: Any) -> None:
    plain: dict[str, Any] = {}
    assign(plain, assignment)
    for part in path:
        assert list(plain) == [part]
        plain = plain[part]
    assert plain == value and type(plain) is type(value)


@pytest.mark.parametrize("assignment", ["steps", "=3", ""])
def test_set_without_key_and_value_is_refused_with_an_example(make_case: Any, assignment: str) -> None:
    assert "--set takes KEY=VALUE" in error_of(make_case(), assignment)


def test_set_through_a_value_that_is_no_table_is_refused(make_case: Any) -> None:
    assert "--set steps.x: steps is not a table" in error_of(make_case(), "steps.x=1")


def test_set_with_a_misspelt_key_offers_the_nearest(make_case: Any) -> None:
    assert "compare.resnyc: unknown key; did you mean 'resync'?" in error_of(make_case(), "compare.resnyc=1")


def test_overrides_win_over_set_which_wins_over_the_file(make_case: Any) -> None:
    folder = make_case("steps = 3\nseed = 1\nmode = 'train'")
    case = load_case(folder, ["steps=4", "seed=2"], steps=5, mode=None)
    assert (case.steps, case.file.seed, case.file.mode) == (5, 2, "train")


def test_milestones_beyond_a_short_schedule_are_left_out_when_they_are_the_defaults(make_case: Any) -> None:
    case = load_case(make_case(tables="[schedule]\nsteps = 700"))
    assert case.file.schedule.chosen_milestones() == (100, 500)


def test_kinds_are_in_causal_order() -> None:
    assert KINDS == (
        "batch", "initial_parameter", "lr", "activation", "loss", "gradient", "optimizer_state", "parameter", "buffer"
    )  # fmt: skip

"""The pytest plugin, in a pytest of its own: what passes, what fails and with which words, whose turn it is."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import stepalign.coordinator.api  # noqa: F401 (a pytest in this process forgets what it imported, and would have it twice)

from .real_cases import write_case

pytest_plugins = ["pytester"]

_ROOT = Path(__file__).resolve().parents[2]

CONFTEST = f"""
import os, pytest, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import made_up_results
from stepalign.coordinator import api

ended = []


def end(case, out, watcher):
    ended.append((case, out))
    return made_up_results.every_result()[case.file.options.get("end", "aligned")], out


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    ended.clear()
    monkeypatch.setattr(api, "run_case", end)
    monkeypatch.setattr(api, "run_schedule", end)


@pytest.fixture(name="ended")
def _ended():
    return ended
"""
"""Lets each case end as its option `end` says, without a worker."""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a case in it, whose runs are made up, and a home of its own for stepalign."""
    monkeypatch.setenv("STEPALIGN_HOME", str(pytester.path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    write_case(pytester.path / "case")
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\nfilterwarnings = error\n")
    return pytester


def test_the_plugin_is_installed_with_the_package() -> None:
    (entry,) = importlib.metadata.entry_points(group="pytest11", name="stepalign")
    assert entry.value == "stepalign.coordinator.pytest_plugin"


def test_loading_the_plugin_imports_nothing_but_itself() -> None:
    code = (
        "import sys, pytest\nbefore = set(sys.modules)\nimport stepalign.coordinator.pytest_plugin\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "['stepalign', 'stepalign.coordinator', 'stepalign.coordinator.pytest_plugin']"


def test_a_marked_test_runs_its_case_before_its_body(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest, unittest

        @pytest.mark.stepalign(case="case", steps=7, dtype="float64", mode="train", seed=3, assignments=["hidden=64"])
        def test_function(ended, tmp_path):
            (case, out), = ended
            file = case.file
            assert (file.steps, file.dtype, file.mode, file.seed, file.options["hidden"]) == (7, "float64", "train", 3, 64)
            assert out.parent == tmp_path and out.name == "case"

        @pytest.mark.stepalign("case")
        class TestClass:
            @pytest.mark.stepalign(steps=5)
            def test_method(self, ended):
                assert [case.steps for case, _ in ended] == [5]

        @pytest.mark.stepalign("case")
        class TestUnit(unittest.TestCase):
            def test_unittest(self):
                import conftest
                assert len(conftest.ended) == 1

        @pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.stepalign("case")), 2])
        def test_parameter(ended, number):
            assert len(ended) == 2 - number
    """)
    suite.runpytest_inprocess().assert_outcomes(passed=5)


def test_the_fixture_runs_cases_relative_to_the_test_and_fills_in_from_the_marker(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.stepalign(case="case", steps=7, dtype="float64")
        def test_defaults(stepalign_run, ended, tmp_path):
            outcome = stepalign_run(dtype="float32")
            stepalign_run(steps=2)
            stepalign_run.schedule(steps=4500)
            assert [(case.steps, case.file.dtype) for case, _ in ended[:2]] == [(7, "float32"), (2, "float64")]
            assert ended[2][0].file.schedule.steps == 4500
            assert [out.name for _, out in ended] == ["case", "case-2", "case-3"]
            assert outcome.is_aligned and outcome.folder == tmp_path / "case"

        def test_unchecked(stepalign_run):
            assert stepalign_run("case", assignments=["end=diverged"], check=False).verdict == "diverged"

        @pytest.mark.parametrize("dtype", ["float32", "float64"])
        def test_parametrised(stepalign_run, ended, dtype):
            stepalign_run("case", dtype=dtype)
            assert ended[0][0].file.dtype == dtype
    """)
    suite.runpytest_inprocess().assert_outcomes(passed=4)


def test_a_marker_with_lists_makes_a_test_for_each_combination(suite: pytest.Pytester) -> None:
    write_case(suite.path / "other")
    suite.makepyfile("""
        import pytest

        seen = []

        @pytest.mark.stepalign(case=["case", "other"], dtype=["float32", "float64"], steps=4)
        def test_each(ended, request):
            (case, _), = ended
            seen.append((case.folder.name, case.file.dtype, case.steps))

        @pytest.mark.stepalign(mode=("eval", "train"), case="case")
        class TestCalls:
            def test_call(self, stepalign_run, ended):
                stepalign_run(steps=2)
                seen.append((ended[0][0].file.mode, ended[0][0].steps))

        def test_all_were_seen():
            assert seen == [
                ("case", "float32", 4), ("case", "float64", 4), ("other", "float32", 4), ("other", "float64", 4),
                ("eval", 2), ("train", 2),
            ]
    """)
    result = suite.runpytest_inprocess("-v")
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["*::test_each[[]other-float64[]] PASSED*", "*::test_call[[]train[]] PASSED*"])


@pytest.mark.parametrize("end", ["diverged", "inconclusive", "failed"])
def test_a_case_that_is_not_aligned_fails_with_the_terminals_text_and_no_traceback(
    suite: pytest.Pytester, end: str
) -> None:
    suite.makepyfile(f"""
        import pytest

        @pytest.mark.stepalign("case", assignments=["end={end}"])
        def test_marked():
            raise SystemError("the body ran")

        def test_called(stepalign_run):
            stepalign_run("case", assignments=["end={end}"])
            raise SystemError("the call returned")
    """)
    result = suite.runpytest_inprocess("--junitxml=junit.xml")
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    assert text.count(f"VERDICT  {end.upper()}") == 2 and text.count("\nNEXT  ") == 2
    result.stdout.fnmatch_lines([f"FAILED *::test_marked - stepalign: bert {end}*"])
    for foreign in ("Traceback", "SystemError", "pytest_plugin.py", "api.py", "full-trace", "\nE  "):
        assert foreign not in text
    (first, *_) = ElementTree.parse(suite.path / "junit.xml").getroot().iter("property")
    assert first.attrib["name"] == "stepalign" and first.attrib["value"].startswith(f"bert {end}")


def test_nothing_passes_by_accident(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.stepalign("case")
        def test_never_called(stepalign_run):
            pass

        @pytest.mark.stepalign("nowhere")
        def test_no_such_case():
            pass

        def test_no_case(stepalign_run):
            stepalign_run()

        @pytest.mark.stepalign("case", step=3)
        def test_misspelt():
            pass

        @pytest.mark.stepalign("case", "float64")
        def test_without_a_name():
            pass

        @pytest.mark.stepalign("case", assignments=["end=diverged"])
        @pytest.mark.xfail(strict=True)
        def test_expected():
            pass
    """)
    result = suite.runpytest_inprocess("-rfE")
    result.assert_outcomes(failed=3, errors=2, xfailed=1)
    result.stdout.fnmatch_lines_random([
        "stepalign: *never called it: nothing was compared",
        "stepalign: no case at *nowhere: expected a folder with a case.toml*",
        "stepalign: no case: give stepalign_run its folder*",
        "stepalign: the marker of *test_misspelt takes*found unknown step",
        "stepalign: the marker of *test_without_a_name takes*found 2 without a name and none",
    ])  # fmt: skip
    assert "Traceback" not in result.stdout.str() and "During handling" not in result.stdout.str()


def test_run_folders_go_where_the_option_says_and_never_into_an_earlier_runs(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.parametrize("name", ["a/../b"])
        def test_it(stepalign_run, name):
            stepalign_run("case")
    """)
    for _ in range(2):
        suite.runpytest_inprocess("--stepalign-out", "kept").assert_outcomes(passed=1)
    stem = f"{suite.path.name[:-1]}"
    names = sorted(path.name for path in (suite.path / "kept").iterdir())
    assert len(names) == 2 and names[1] == f"{names[0]}-2"
    assert names[0].startswith("test_") and "/" not in names[0] and stem.removesuffix("0") in names[0]


def test_an_interruption_ends_the_session(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import os, signal
        from stepalign.coordinator import api

        def test_it(stepalign_run, monkeypatch, ended):
            def interrupt(case, out, watcher):
                os.kill(os.getpid(), signal.SIGINT)
                return api.run_case.made_up(case, out, watcher)
            interrupt.made_up = api.run_case
            monkeypatch.setattr(api, "run_case", interrupt)
            stepalign_run("case")

        def test_next():
            raise SystemError("the session went on")
    """)
    result = suite.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "the session went on" not in result.stdout.str()


def test_a_home_that_cannot_be_written_is_told_with_a_way_out(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPALIGN_HOME", str(suite.path / "case" / "case.toml" / "home"))
    suite.makepyfile("""
        def test_it(stepalign_run):
            stepalign_run("case")
    """)
    result = suite.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["stepalign: *pytest.lock: cannot be locked*STEPALIGN_HOME*--stepalign-parallel"])
    suite.runpytest_inprocess("--stepalign-parallel").assert_outcomes(passed=1)


MEETING = """
import os, pytest, time
from pathlib import Path
from stepalign.coordinator import api

HERE = Path(__file__).parent


def wait_for(pattern, count):
    deadline = time.monotonic() + 30
    while len(list(HERE.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"waited in vain for {count} of {pattern}"
        time.sleep(0.005)


@pytest.mark.parametrize("name", ["a", "b"])
def test_it(stepalign_run, monkeypatch, name):
    made_up = api.run_case

    def enter(case, out, watcher):
        meet(name)
        return made_up(case, out, watcher)

    monkeypatch.setattr(api, "run_case", enter)
    (HERE / f"ready-{name}").touch()
    wait_for("ready-*", 2)
    stepalign_run("case")
"""


def test_under_xdist_only_one_case_runs_at_a_time(suite: pytest.Pytester) -> None:
    alone = """
def meet(name):
    busy = HERE / "busy"
    busy.touch(exist_ok=False)
    time.sleep(0.3)  # the other one would have the time to come in
    busy.unlink()
"""
    suite.makepyfile(MEETING + alone)
    suite.runpytest_subprocess("-n", "2").assert_outcomes(passed=2)


def test_under_xdist_cases_run_at_once_where_that_is_allowed(suite: pytest.Pytester) -> None:
    together = """
def meet(name):
    (HERE / f"inside-{name}").touch()
    wait_for("inside-*", 2)
"""
    suite.makepyfile(MEETING + together)
    suite.runpytest_subprocess("-n", "2", "--stepalign-parallel").assert_outcomes(passed=2)


def test_under_xdist_cases_run_at_once_on_gpus_of_their_own(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        CONFTEST
        + """
from stepalign.coordinator.devices import slots

slots.machine_slots = lambda: (slots.Slot(("gpu-a", "gpu-b"), ("a", "b")), slots.Slot(("gpu-c", "gpu-d"), ("c", "d")))
"""
    )
    together = """
def meet(name):
    (HERE / f"inside-{os.environ['CUDA_VISIBLE_DEVICES']}").touch()
    wait_for("inside-*", 2)
"""
    suite.makepyfile(MEETING + together)
    suite.runpytest_subprocess("-n", "2").assert_outcomes(passed=2)
    assert {path.name for path in suite.path.glob("inside-*")} == {"inside-a,b", "inside-c,d"}


def test_the_snippets_of_the_documentation_pass(suite: pytest.Pytester) -> None:
    for name in ("my_case", "cases/bert", "cases/resnet"):
        write_case(suite.path / name)
    page = (_ROOT / "docs/python.md").read_text(encoding="utf-8")
    snippets = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    suite.makepyfile(**{f"test_{number}": text for number, text in enumerate(snippets) if "import pytest" in text})
    suite.runpytest_inprocess().assert_outcomes(passed=15)


def test_the_example_suite_passes_with_both_frameworks(tmp_path: Path) -> None:
    options = ["-p", "no:cacheprovider", "-k", "not float32", "--stepalign-out", str(tmp_path / "kept")]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(
        [*command, str(_ROOT / "examples/pytest_suite")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed, 1 deselected" in done.stdout
    assert len([path for path in (tmp_path / "kept").iterdir() if (path / "result.json").is_file()]) == 4

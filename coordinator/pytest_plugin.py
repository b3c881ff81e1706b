"""The pytest plugin: the fixture `stepalign_run` and the marker ``stepalign`` run a case within a test.

Guarantees: a test passes only if the case is aligned; one that fails shows the terminal's text and no traceback; runs
under pytest-xdist share no GPU, and without GPUs wait for each other, unless ``--stepalign-parallel`` is given. Every
pytest of an environment that stepalign is installed in imports this module, so it imports nothing of the coordinator's
before a case is run.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from stepalign.coordinator.api import Result

LOCK_WAIT_S = 3600.0
"""How long a run waits for those of other pytest processes before its test fails."""

_MARKER = "stepalign"
_KEYS = ("case", "steps", "mode", "dtype", "seed", "assignments", "against")
_LISTED_KEYS = ("case", "steps", "mode", "dtype", "seed")
"""Those for which a marker may list several values: the test runs for each combination."""

_CHOSEN = "_stepalign_chosen"
_MARKER_HELP = (
    "stepalign(case, *, steps, mode, dtype, seed, assignments, against): run a case, its folder relative to the test's, before "
    "the test's body; fail the test unless it is aligned. A list of cases, steps, modes, dtypes or seeds makes a test for "
    "each combination. With the fixture stepalign_run these are the defaults of its call."
)
_HEADLINE = pytest.StashKey[str]()


class CaseRunner:
    """What the fixture `stepalign_run` gives: called, it runs a case and fails the test unless it is aligned.

    ``calls`` counts the runs that were started.
    """

    def __init__(self, node: pytest.Item, tmp_path: Path) -> None:
        self._node = node
        self._tmp_path = tmp_path
        self._defaults = _marked_settings(node)
        self.calls = 0

    def __call__(
        self,
        case: str | os.PathLike[str] | None = None,
        *,
        steps: int | None = None,
        mode: str | None = None,
        dtype: str | None = None,
        seed: int | None = None,
        assignments: Sequence[str] | None = None,
        against: str | os.PathLike[str] | None = None,
        check: bool = True,
    ) -> Result:
        """Run ``case``, a folder relative to the test's own, and return the result; parameters as for `stepalign.run`.

        What is not given is the marker's, then the case's. With ``check`` False a result of any verdict is returned.
        """
        given = {
            "case": case, "steps": steps, "mode": mode, "dtype": dtype, "seed": seed, "assignments": assignments,
            "against": against,
        }  # fmt: skip
        settings = {**self._defaults, **{key: value for key, value in given.items() if value is not None}}

        if settings.get("against") is not None:
            settings["against"] = self._node.path.parent / settings["against"]

        def call(folder: Path, out: Path) -> Result:
            from stepalign.coordinator import api

            return api.run(folder, **settings, out=out)

        return self._run(settings.pop("case", None), call, check)

    def schedule(
        self,
        case: str | os.PathLike[str] | None = None,
        *,
        steps: int | None = None,
        assignments: Sequence[str] = (),
        check: bool = True,
    ) -> Result:
        """Compare both sides' learning rates alone, as `stepalign.schedule` does; of the marker only the case counts."""

        def call(folder: Path, out: Path) -> Result:
            from stepalign.coordinator import api

            return api.schedule(folder, steps=steps, assignments=assignments, out=out)

        return self._run(self._defaults.get("case") if case is None else case, call, check)

    def _run(self, case: str | os.PathLike[str] | None, call: Callable[[Path, Path], Result], check: bool) -> Result:
        self.calls += 1
        if case is None:
            _fail("stepalign: no case: give stepalign_run its folder, or the test @pytest.mark.stepalign(case=...)")
        from stepalign.protocol.errors import StepalignError

        folder = self._node.path.parent / case
        refusal = ""
        try:
            with _turn(self._node.config):
                result = call(folder, self._new_folder(folder.name))
        except StepalignError as error:
            refusal = f"stepalign: {error}"
        if refusal:  # outside of the handler: pytest would print the handled exception as well
            _fail(refusal)
        self._node.user_properties.append(("stepalign", f"{result.headline}; run folder {result.folder}"))
        if check and not result.is_aligned:
            self._node.stash[_HEADLINE] = f"stepalign: {result.headline}"
            _fail(result.text)
        return result

    def _new_folder(self, case_name: str) -> Path:
        """Make a run folder below --stepalign-out, named after the test, or else in the test's tmp_path."""
        root: str | None = self._node.config.getoption("stepalign_out")
        if root is None:
            parent, stem = self._tmp_path, _plain(case_name)
        else:
            parent = self._node.config.invocation_params.dir / root
            stem = _plain(self._node.nodeid)
        number = 1
        while True:
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
            except OSError as error:
                _fail(f"stepalign: {folder}: cannot make a run folder there: {error.strerror}; see --stepalign-out")


@pytest.fixture
def stepalign_run(request: pytest.FixtureRequest, tmp_path: Path) -> CaseRunner:
    """Return a function that runs a stepalign case and fails the test, with the terminal's text, unless it is aligned."""
    return CaseRunner(request.node, tmp_path)


@pytest.fixture(name="_stepalign_marked")
def _marked(stepalign_run: CaseRunner) -> CaseRunner:
    """Give a marked test its runner, whether it asks for it or not."""
    return stepalign_run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("stepalign", "PyTorch and PaddlePaddle side by side")
    group.addoption(
        "--stepalign-out", metavar="DIR", default=None, help="keep run folders below DIR, one a run (default: tmp_path)"
    )
    group.addoption(
        "--stepalign-parallel",
        action="store_true",
        help="let runs of several pytest processes go on at once (default: one at a time, as they share GPUs and cores)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", _MARKER_HELP)


@pytest.fixture(name=_CHOSEN)
def _chosen(request: pytest.FixtureRequest) -> Any:
    """Give a test of a marker with lists its own combination."""
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each combination of what the markers list."""
    markers = list(metafunc.definition.iter_markers(_MARKER))
    settings: dict[str, Any] = {}
    for marker in reversed(markers):
        settings.update({**dict(zip(("case",), marker.args)), **marker.kwargs})
    listed = {key: list(settings[key]) for key in _LISTED_KEYS if isinstance(settings.get(key), (list, tuple))}
    if not listed:
        return
    combinations = [dict(zip(listed, values)) for values in itertools.product(*listed.values())]
    metafunc.fixturenames.append(_CHOSEN)
    ids = ["-".join(_plain(str(value)) for value in each.values()) for each in combinations]
    metafunc.parametrize(_CHOSEN, combinations, indirect=True, ids=ids)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a marked test the fixture that runs its case."""
    if item.get_closest_marker(_MARKER) is not None:
        names = getattr(item, "fixturenames", None)
        if names is None:
            raise pytest.UsageError(f"{item.nodeid}: marked stepalign, but tests of this sort take no fixtures")
        if "_stepalign_marked" not in names:
            names.append("_stepalign_marked")


@pytest.hookimpl(tryfirst=True, specname="pytest_runtest_call")
def pytest_stepalign_before_body(item: pytest.Item) -> None:
    """Run the case of a marked test that leaves that to us."""
    runner = _runner_of(item)
    if runner is not None and not _asks_itself(item):
        runner()


@pytest.hookimpl(trylast=True, specname="pytest_runtest_call")
def pytest_stepalign_after_body(item: pytest.Item) -> None:
    """Fail a marked test that asked for `stepalign_run` and never called it."""
    runner = _runner_of(item)
    if runner is not None and not runner.calls:
        _fail(
            "stepalign: the test is marked stepalign and takes stepalign_run, but never called it: nothing was compared"
        )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let pytest's summary name the verdict and the place, not the first line of a table."""
    outcome: Any = yield
    headline = item.stash.get(_HEADLINE, None)
    if headline is not None:
        crash = getattr(outcome.get_result().longrepr, "reprcrash", None)
        if crash is not None:
            crash.message = headline


def _runner_of(item: pytest.Item) -> CaseRunner | None:
    if item.get_closest_marker(_MARKER) is None:  # the list of fixtures is shared with other parameters of the function
        return None
    runner: CaseRunner | None = getattr(item, "funcargs", {}).get("_stepalign_marked")
    return runner


def _asks_itself(item: pytest.Item) -> bool:
    return "stepalign_run" in getattr(item, "fixturenames", ())


def _marked_settings(item: pytest.Item) -> dict[str, Any]:
    """Merge the markers, the nearest last, and take this test's own of what they list."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers(_MARKER))):
        settings.update(_settings_of(item, marker.args, marker.kwargs))
    call = getattr(item, "callspec", None)
    return {**settings, **(call.params.get(_CHOSEN, {}) if call is not None else {})}


def _settings_of(item: pytest.Item, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(kwargs) - set(_KEYS))
    if unknown or len(args) > 1 or (args and "case" in kwargs):
        found = (
            f"unknown {', '.join(unknown)}"
            if unknown
            else f"{len(args)} without a name and {', '.join(kwargs) or 'none'}"
        )
        _fail(
            f"stepalign: the marker of {item.nodeid} takes the case and {', '.join(_KEYS[1:])} by name; found {found}"
        )
    return {**({"case": args[0]} if args else {}), **kwargs}


@contextmanager
def _turn(config: pytest.Config) -> Iterator[None]:
    """Wait for a share of the machine that no other pytest of this user runs a case on, unless the user allows it."""
    if config.getoption("stepalign_parallel"):
        yield
        return
    from stepalign.coordinator.devices import slots
    from stepalign.coordinator.environments.home import home_folder

    worker = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", ""))
    with slots.take_slot(slots.machine_slots(), home_folder(), int(worker or 0), LOCK_WAIT_S):
        yield


def _plain(name: str) -> str:
    """Return a folder's name: a test's id never becomes a path."""
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-.")[-150:] or "case"


def _fail(text: str) -> NoReturn:
    pytest.fail(text, pytrace=False)

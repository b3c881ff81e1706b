"""Interpreters, asked for real where this machine has them and by small scripts where it does not."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from stepalign.coordinator.environments import interpreters
from stepalign.coordinator.environments.interpreters import Interpreter, InterpreterFacts, probe, read_facts
from stepalign.protocol.errors import EnvironmentFailure


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPALIGN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def script(folder: Path, text: str, name: str = "python") -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def bare_environment(folder: Path) -> Path:
    """Lay down the least that Python takes for a virtual environment."""
    environment = folder / "bare"
    (environment / "bin").mkdir(parents=True)
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (environment / "bin" / "python").symlink_to(base)
    (environment / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    return environment


def install(environment: Path, name: str, version: str) -> None:
    (site,) = environment.glob("lib/python*/site-packages")
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_facts_are_those_of_the_interpreter_that_was_asked() -> None:
    facts = read_facts(Path(sys.executable))
    assert facts.python == "{}.{}.{}".format(*sys.version_info[:3])
    assert (facts.executable, facts.prefix) == (sys.executable, sys.prefix)
    assert Path(facts.base_executable).is_file()
    assert {"numpy", "pyzmq", "msgpack"} <= facts.packages.keys()


def test_missing_packages_come_with_the_command_that_installs_them(tmp_path: Path) -> None:
    environment = bare_environment(tmp_path)
    python = environment / "bin" / "python"
    install(environment, "numpy", "2.4.6")
    with pytest.raises(EnvironmentFailure) as failure:
        probe(Interpreter(python, "paddle"))
    assert "lacks what the paddle worker needs: paddlepaddle, pyzmq, msgpack." in str(failure.value)
    assert str(failure.value).endswith(f"Install with: {python} -m pip install paddlepaddle pyzmq msgpack")


def test_a_gpu_distribution_provides_the_framework_too_and_tells_its_cuda(tmp_path: Path) -> None:
    environment = bare_environment(tmp_path)
    for name, version in (("paddlepaddle-gpu", "3.3.1"), ("numpy", "2"), ("pyzmq", "27"), ("msgpack", "1")):
        install(environment, name, version)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "paddle" / "version").mkdir(parents=True)
    (site / "paddle" / "__init__.py").write_text("raise SystemExit('a probe imported the framework')")
    (site / "paddle" / "version" / "__init__.py").write_text("cuda_version     = '12.6'\ncudnn_version = '9'\n")
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").touch()
    (site / "torch" / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = None\n")
    facts = probe(Interpreter(environment / "bin" / "python", "paddle"))
    assert facts.framework_version("paddle") == "3.3.1"
    assert facts.framework_version("torch") == ""
    assert facts.cuda == {"paddle": "12.6"}


def test_a_second_probe_runs_nothing_until_a_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = bare_environment(tmp_path)
    python = environment / "bin" / "python"
    install(environment, "numpy", "1.0")
    first = read_facts(python)
    with monkeypatch.context() as patch:
        patch.setattr(interpreters, "_run_bounded", lambda *_: pytest.fail("the interpreter was run again"))
        assert read_facts(python) == first
    install(environment, "msgpack", "1.0")
    assert read_facts(python).packages == {"numpy": "1.0", "msgpack": "1.0"}


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"identity": {"watched": [3]}}', "\x00", '{"identity": null}', "[" * 9999]
)
def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, home: Path, damage: str) -> None:
    python = bare_environment(tmp_path) / "bin" / "python"
    first = read_facts(python)
    (record,) = (home / "interpreters").iterdir()
    record.write_text(damage)
    assert read_facts(python) == first


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEPALIGN_HOME", str(tmp_path / "file"))
    assert read_facts(bare_environment(tmp_path) / "bin" / "python").packages == {}


def test_a_wrapper_is_asked_each_time(tmp_path: Path, home: Path) -> None:
    wrapper = script(tmp_path, f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    assert read_facts(wrapper).executable == sys.executable
    assert not (home / "interpreters").exists()


def test_what_an_interpreter_prints_at_its_start_does_no_harm(tmp_path: Path) -> None:
    noisy = script(tmp_path, f'#!/bin/sh\necho hello\necho world >&2\n"{sys.executable}" "$@"\necho bye\n')
    assert read_facts(noisy).prefix == sys.prefix


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            '#!/bin/sh\n[ "$1" = -V ] && { echo Python 2.7.18; exit 0; }\necho "Unknown option: -I" >&2\nexit 2\n',
            "2.7.18",
        ),
        ('#!/bin/sh\necho \'stepalign-probe:{"python": "3.8.20"}\'\n', "3.8.20"),
    ],
)
def test_an_interpreter_that_is_too_old_is_named_with_its_version(tmp_path: Path, text: str, version: str) -> None:
    with pytest.raises(EnvironmentFailure, match=rf"is Python {version}; a worker needs Python 3\.9 or newer"):
        read_facts(script(tmp_path, text))


def test_what_is_no_interpreter_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"interpreter .*none does not exist"):
        read_facts(tmp_path / "none")
    plain = tmp_path / "plain"
    plain.write_text("x")
    with pytest.raises(EnvironmentFailure, match=r"is not executable\. .*chmod \+x"):
        read_facts(plain)
    with pytest.raises(EnvironmentFailure, match="cannot be run: Exec format error"):
        read_facts(script(tmp_path, "no program", "odd"))
    with pytest.raises(EnvironmentFailure, match=r"failed a probe \(exit status 3\).*\n  \| sorry"):
        read_facts(script(tmp_path, "#!/bin/sh\necho sorry\nexit 3\n", "sorry"))
    with pytest.raises(EnvironmentFailure, match="with something else than its facts"):
        read_facts(script(tmp_path, '#!/bin/sh\necho \'stepalign-probe:{"python": "3.12.0"}\'\n', "liar"))


def test_an_interpreter_that_hangs_is_killed_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(EnvironmentFailure, match=r"did not answer a probe within 0\.3 s"):
        read_facts(script(tmp_path, "#!/bin/sh\nsleep 60 &\nsleep 60\n"), timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_endless_output_is_cut_off(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(EnvironmentFailure, match="failed a probe"):
        read_facts(script(tmp_path, "#!/bin/sh\nexec yes\n"), timeout_s=30)
    assert time.monotonic() - started < 10


def test_facts_name_the_framework_by_any_of_its_distributions() -> None:
    facts = InterpreterFacts("3.11.7", "", "", "", "cpython", {"torch": "2.13.0"}, {})
    assert facts.framework_version("torch") == "2.13.0"
    assert interpreters.missing_packages("torch", facts) == ("numpy", "pyzmq", "msgpack")

"""The layout: what setup.cfg says is what there is, what is imported where, and what a wheel holds."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"coordinator", "protocol", "workers"}

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import stepalign
from stepalign import coordinator, protocol, workers
names = ["stepalign"]
for package in (coordinator, protocol, workers):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.startswith(("stepalign.workers.torch_worker.", "stepalign.workers.paddle_worker.")) \\
                and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
            names.append(found.name)
assert not {"torch", "paddle"} & set(sys.modules), "a framework was imported"
print("\\n".join(names))
"""


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(section: str, key: str) -> list[str]:
    return [line.strip() for line in config()[section][key].splitlines() if line.strip()]


def package_folders() -> dict[str, Path]:
    """Map each package's import name to its folder, by package_dir."""
    mapped = dict((part.strip() for part in line.split("=")) for line in lines("options", "package_dir"))
    found = {"stepalign": ROOT / mapped["stepalign"]}
    for name, folder in mapped.items():
        if name == "stepalign":
            continue
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            if "_root" not in init.parts:
                inner = init.parent.relative_to(ROOT / folder).parts
                found[".".join((name, *inner))] = init.parent
    return found


def python_files() -> list[Path]:
    return [path for source in sorted(SOURCES) for path in sorted((ROOT / source).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_packages_that_setup_cfg_lists_are_the_folders_with_an_init() -> None:
    assert sorted(lines("options", "packages")) == sorted(package_folders())


def test_the_folders_at_the_top_are_mapped_below_one_import_name() -> None:
    mapped = {line.replace(" ", "") for line in lines("options", "package_dir")}
    assert mapped == {"stepalign=protocol/_root", *(f"stepalign.{name}={name}" for name in SOURCES)}


@pytest.mark.parametrize("twin", ["torch_worker", "paddle_worker"])
def test_both_twins_are_whole(twin: str) -> None:
    names = {path.name for path in (ROOT / "workers" / twin).glob("*.py")}
    assert {"__init__.py", "adapter.py", "step.py", "model.py", "optimizer.py"} <= names
    assert names == {path.name for path in (ROOT / "workers" / "torch_worker").glob("*.py")}


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_side_may(path: Path) -> None:
    top, names = path.relative_to(ROOT).parts[0], imported(path)
    tops = {name.partition(".")[0] for name in names}
    inner = {name for name in names if name.startswith("stepalign.")}
    allowed_frameworks = (
        {"torch"} if "torch_worker" in path.parts else {"paddle"} if "paddle_worker" in path.parts else set()
    )
    if path.parent.name not in ("demo_case", "init_case"):
        assert tops & {"torch", "paddle"} <= allowed_frameworks
        other = "workers" if top == "coordinator" else "coordinator"
        assert not any(name.startswith(f"stepalign.{other}") for name in inner)
    if top == "protocol":
        assert all(name.startswith("stepalign.protocol") for name in inner)
        assert tops <= {"stepalign", "numpy", "msgpack", "zmq", *sys.stdlib_module_names}
    if top == "workers":
        assert tops <= {"stepalign", "numpy", "zmq", *sys.stdlib_module_names, *allowed_frameworks}
    assert "pickle" not in tops or path.name == "reprod_npy.py"


@pytest.mark.parametrize(
    "path", [path for path in python_files() if "coordinator" not in path.parts], ids=lambda path: path.name
)
def test_what_runs_in_a_worker_is_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_received_is_evaluated_and_no_stub_is_left(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile"), f"line {node.lineno}"
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)


def test_every_module_is_importable_where_no_framework_is_and_imports_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "stepalign.coordinator.cli.main" in done.stdout and "stepalign.workers.torch_worker" in done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


def build_wheel(source: Path, out: Path) -> Path:
    """Build the wheel in ``out`` from a copy of the sources in ``source``, so that nothing is written beside them."""
    leave = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=leave)
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    isolated = ["--no-build-isolation"] if can_build_here() else []
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--disable-pip-version-check", *isolated]
    done = subprocess.run([*command, "--wheel-dir", str(out), str(source)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def can_build_here() -> bool:
    """Tell whether this environment's setuptools makes wheels by itself; otherwise pip fetches one that does."""
    try:
        major, minor = importlib.metadata.version("setuptools").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= (70, 1)


def test_a_wheel_holds_every_module_and_all_package_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for name, folder in package_folders().items():
        expected |= {f"{name.replace('.', '/')}/{path.name}" for path in folder.glob("*.py")}
    languages = {path.parent.name for path in (ROOT / "coordinator" / "languages").glob("*/*.toml")}
    for folder in ("cases/demo_case", "cases/init_case", "report/templates", *(f"languages/{name}" for name in languages)):
        found = [path for path in (ROOT / "coordinator" / folder).iterdir() if path.is_file()]
        assert found
        expected |= {f"stepalign/coordinator/{folder}/{path.name}" for path in found}
    expected.add("stepalign/coordinator/atlas/measured.json")
    expected |= {f"stepalign/{path.name}" for path in (ROOT / "protocol" / "_root").iterdir() if path.is_file()}
    assert "stepalign/py.typed" in expected
    assert held == expected


def test_an_installed_wheel_works_away_from_the_sources(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, "--target", str(target), str(wheel)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import stepalign, zipfile\n"
        f"assert stepalign.__file__.startswith({str(target)!r}), stepalign.__file__\n"
        "from pathlib import Path\n"
        "from stepalign.coordinator.cases import loading\n"
        "from stepalign.coordinator.processes.payload import write_payload\n"
        "demo = loading.load_case(Path(loading.__file__).parent / 'demo_case')\n"
        "print(demo.name, demo.steps)\n"
        "write_payload(Path('payload.pyz'))\n"
        "assert 'stepalign/workers/torch_worker/step.py' in zipfile.ZipFile('payload.pyz').namelist()\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", with_site_packages(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "10"


def with_site_packages(code: str) -> str:
    """Prepend the path of the libraries, but none of the hooks of an editable install."""
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    return f"import sys; sys.path += {libraries!r}\n{code}"

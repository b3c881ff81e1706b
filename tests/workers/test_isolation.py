"""The other framework stays out: every way to import it fails with the reason, every search for it finds nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from stepalign.workers import isolation


def run(code: str, folder: Path, framework: str = "paddle") -> Any:
    """Run ``code`` in a process that is a ``framework`` worker as far as imports go; both frameworks are on its path."""
    for name in ("torch", "paddle"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(f"NAME = {name!r}\n", encoding="utf-8")
        (folder / name / "nn.py").write_text("", encoding="utf-8")
    (folder / "user.py").write_text("import torch.nn\n", encoding="utf-8")
    (folder / "optional.py").write_text(
        "try:\n    import torch\nexcept ImportError:\n    torch = None\n", encoding="utf-8"
    )
    prelude = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "import importlib, importlib.util\n"
        "from stepalign.workers import isolation\n"
        f"isolation.forbid_other_frameworks({framework!r})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import torch",
        "import torch.nn",
        "from torch import nn",
        "importlib.import_module('torch')",
        "__import__('torch')",
        "import user",
    ],
)
def test_every_way_to_import_torch_on_the_paddle_side_fails_with_the_reason(tmp_path: Path, statement: str) -> None:
    done = run(statement, tmp_path)
    assert done.returncode == 1
    assert (
        "ForbiddenImport: the paddle side must not import torch: the two frameworks never share a process."
        in done.stderr
    )
    assert "Remove the import of torch from the paddle side's script" in done.stderr


def test_the_same_holds_the_other_way_round(tmp_path: Path) -> None:
    done = run("import paddle", tmp_path, "torch")
    assert "the torch side must not import paddle" in done.stderr


def test_the_sides_own_framework_is_imported_as_ever(tmp_path: Path) -> None:
    code = "import paddle, paddle.nn\nassert paddle.NAME == 'paddle'\nassert importlib.util.find_spec('paddle') is not None"
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["torch", "torch.nn", "torch.nn.functional"])
def test_a_search_for_the_other_framework_finds_nothing(tmp_path: Path, name: str) -> None:
    done = run(f"print(importlib.util.find_spec({name!r}))", tmp_path)
    assert done.stdout.strip() == "None", done.stderr


def test_other_searches_are_as_ever(tmp_path: Path) -> None:
    code = (
        "assert importlib.util.find_spec('json').name == 'json'\n"
        "assert importlib.util.find_spec('nothing_like_this') is None\n"
        "assert importlib.util.find_spec('.nn', 'paddle').name == 'paddle.nn'\n"
        "assert importlib.util.find_spec('torchlike') is None\nimport json\n"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_library_that_can_do_without_it_does(tmp_path: Path) -> None:
    done = run("import optional\nassert optional.torch is None\nassert 'torch' not in sys.modules", tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_is_loaded_besides_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    assert isolation.loaded_frameworks_besides("torch") == ()
    monkeypatch.setitem(sys.modules, "paddle", isolation)
    assert isolation.loaded_frameworks_besides("torch") == ("paddle",)
    assert isolation.loaded_frameworks_besides("paddle") == ()


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("/env/torch/lib/libtorch_cpu.so", True),
        ("/env/torch.libs/libgomp-a34b3233.so.1.0.0", True),
        ("/env/numpy.libs/libscipy_openblas64_-ff651d7f.so", False),
        ("/env/paddle/base/libpaddle.so", True),
        ("/env/paddle/libs/libmkldnn.so.2", True),
        ("/usr/lib/libcublas.so.12", True),
        ("/usr/lib/libc.so.6", False),
        ("/home/libtorch/data.bin", False),
        ("/usr/lib/python3/lib-dynload/math.so", False),
    ],
)
def test_math_libraries_are_known_by_their_file_names(path: str, counts: bool) -> None:
    assert bool(isolation._MATH_LIBRARY.search(path)) is counts


def test_the_native_libraries_of_this_process_are_listed_by_file_name() -> None:
    found = isolation.loaded_math_libraries()
    assert list(found) == sorted(set(found))
    assert all("/" not in name and ".so" in name for name in found)

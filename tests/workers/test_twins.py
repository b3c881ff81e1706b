"""The two framework workers are twins: read as source, since no environment has both frameworks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

WORKERS = Path(__file__).parents[2] / "workers"
TORCH, PADDLE = WORKERS / "torch_worker", WORKERS / "paddle_worker"
FILES = sorted(path.name for path in TORCH.glob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def functions(path: Path) -> dict[str, str]:
    """Map each top-level function of a file, in order, to its arguments, defaults, annotations and return type."""
    found = [node for node in parse(path).body if isinstance(node, ast.FunctionDef)]
    return {node.name: f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}" for node in found if node.returns}


def classes(path: Path) -> dict[str, str]:
    """Map each top-level class of a file to the source of its body without the docstring."""
    found = [node for node in parse(path).body if isinstance(node, ast.ClassDef)]
    return {node.name: ast.unparse(ast.Module(node.body[1:], [])) for node in found}


def imported(path: Path) -> set[str]:
    """List the first names of everything that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def exported(path: Path) -> list[str]:
    """Read ``__all__`` of a file."""
    for node in parse(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def test_both_twins_have_the_same_files() -> None:
    assert sorted(path.name for path in PADDLE.glob("*.py")) == FILES
    assert "adapter.py" in FILES


@pytest.mark.parametrize("name", FILES)
def test_public_functions_are_the_same_in_the_same_order_with_the_same_signatures(name: str) -> None:
    public = [
        {key: value for key, value in functions(side / name).items() if not key.startswith("_")}
        for side in (TORCH, PADDLE)
    ]
    assert list(public[0].items()) == list(public[1].items())


@pytest.mark.parametrize("name", FILES)
def test_private_functions_that_both_have_keep_one_order_and_one_signature(name: str) -> None:
    torch, paddle = functions(TORCH / name), functions(PADDLE / name)
    shared = [(key, value) for key, value in torch.items() if key in paddle]
    assert shared == [(key, value) for key, value in paddle.items() if key in torch]


@pytest.mark.parametrize("name", FILES)
def test_classes_have_the_same_fields(name: str) -> None:
    assert classes(TORCH / name) == classes(PADDLE / name)


@pytest.mark.parametrize("name", FILES)
def test_every_function_says_what_it_does(name: str) -> None:
    for side in (TORCH, PADDLE):
        for node in parse(side / name).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert ast.get_docstring(node), f"{side.name}/{name}: {node.name} has no docstring"


def test_the_adapters_export_the_same_interface_and_all_of_it_exists() -> None:
    names = exported(TORCH / "adapter.py")
    assert names == sorted(names) == exported(PADDLE / "adapter.py")
    for side in (TORCH, PADDLE):
        defined = {key for name in FILES for key in functions(side / name)}
        assert set(names) <= defined


@pytest.mark.parametrize(("side", "other"), [(TORCH, "paddle"), (PADDLE, "torch")])
def test_a_twin_imports_its_own_framework_only(side: Path, other: str) -> None:
    for name in FILES:
        assert other not in imported(side / name), f"{side.name}/{name} imports {other}"


@pytest.mark.parametrize("side", [TORCH, PADDLE])
def test_a_twin_imports_only_from_itself_and_what_workers_share(side: Path) -> None:
    for name in FILES:
        for node in ast.walk(parse(side / name)):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("stepalign.workers."):
                package = (str(node.module) + "." + node.names[0].name).split(".")[2]
                assert package in (side.name, "capture", "dropout", "plain_state", "training"), (
                    f"{side.name}/{name} imports {node.module}"
                )


@pytest.mark.parametrize(("side", "framework"), [(TORCH, "torch"), (PADDLE, "paddle")])
def test_importing_a_twin_alone_imports_no_framework(side: Path, framework: str) -> None:
    source = parse(side / "__init__.py")
    assert imported(side / "__init__.py") == set()
    assert f"FRAMEWORK = '{framework}'" in ast.unparse(source)


def test_nothing_else_in_the_project_imports_a_framework() -> None:
    root = WORKERS.parent
    for folder in ("coordinator", "protocol", "workers"):
        for path in (root / folder).rglob("*.py"):
            is_case_script = path.name in ("torch_side.py", "paddle_side.py")
            if path.parent not in (TORCH, PADDLE) and not is_case_script:
                assert not imported(path) & {"torch", "paddle"}, f"{path.relative_to(root)} imports a framework"

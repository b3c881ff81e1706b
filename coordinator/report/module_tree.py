"""The model's modules as a tree, as torch names them, with the module marked that the first divergence lies in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stepalign.coordinator.languages.translation import say


@dataclass
class Node:
    """One module. ``is_bad`` marks the first divergence's; ``failing`` counts tensors that failed in the same step."""

    name: str
    path: str
    type: str = ""
    paddle_path: str = ""
    paddle_type: str = ""
    is_bad: bool = False
    failing: int = 0
    children: list[Node] = field(default_factory=list)

    @property
    def holds_bad(self) -> bool:
        """Whether the marked module is this one or below it."""
        return self.is_bad or any(child.holds_bad for child in self.children)

    @property
    def all_failing(self) -> int:
        """How many tensors failed here and below."""
        return self.failing + sum(child.all_failing for child in self.children)


def module_tree(details: Mapping[str, Any], chart: Mapping[str, Any] | None) -> Node | None:
    """Return the root, the model itself, or None where nothing is known. ``chart`` is the map of tensors."""
    modules = [item for item in details.get("modules") or () if isinstance(item, Mapping)]
    if not modules:
        return None
    nodes = {"": Node(say("model"), "")}
    for item in modules:
        path = str(item.get("path", ""))
        node = _node_at(nodes, path)
        node.type, node.paddle_path = str(item.get("type", "")), str(item.get("paddle_path", ""))
        node.paddle_type = str(item.get("paddle_type", "")).rpartition(".")[2]
    bad = details.get("bad_module")
    if isinstance(bad, str) and bad in nodes:
        nodes[bad].is_bad = True
    for name in _failing_tensors(details, chart):
        nodes[_owner(nodes, name)].failing += 1
    return nodes[""]


def _node_at(nodes: dict[str, Node], path: str) -> Node:
    if path not in nodes:
        parent, _, name = path.rpartition(".")
        nodes[path] = Node(name, path)
        _node_at(nodes, parent).children.append(nodes[path])
    return nodes[path]


def _owner(nodes: Mapping[str, Node], name: str) -> str:
    path = name.partition("@")[0].partition("[")[0]
    while path not in nodes:
        path = path.rpartition(".")[0]
    return path


def _failing_tensors(details: Mapping[str, Any], chart: Mapping[str, Any] | None) -> Iterable[str]:
    """Yield the tensors of the first failing step that are out of tolerance, each once."""
    failure = details.get("first_failure")
    if chart is None or not isinstance(failure, Mapping) or failure.get("step") not in chart["steps"]:
        return ()
    column = chart["steps"].index(failure["step"])
    return {
        row["tensor"]: None
        for row, levels in zip(chart["rows"], chart["levels"])
        if row["kind"] not in ("batch", "lr", "loss") and (levels[column] or 0) > 0
    }

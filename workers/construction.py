"""Says how a training was constructed: its optimizer, schedule and clipping as calls with the arguments that were given.

What is constructed while a `Recorder` is in place is known by the call that made it, nested schedules and groups
included. A call is sent as ``{"$call": dotted name, "arguments": {...}}``, a tuple as ``{"$tuple": [...]}``, a function
as ``{"$expression": its source}``.
"""

from __future__ import annotations

import ast
import functools
import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, ProtocolError
from stepalign.protocol.script import call_script, find_function, load_script
from stepalign.workers.client import Client

SUBJECTS = ("self", "params", "parameters", "optimizer")
"""Arguments that say what is trained, not how."""


class Recorder:
    """Remembers the call that constructed each object of the given classes, and the calls of the given functions."""

    def __init__(self, twin: Any) -> None:
        self._made: Dict[int, Tuple[Any, Dict[str, Any]]] = {}
        self._undo = ExitStack()
        self.calls: List[Dict[str, Any]] = []
        for name, cls in twin.constructed_classes().items():
            if "__init__" in vars(cls):
                self._replace(cls, "__init__", self._recording(name, cls, cls.__init__))
        for owner, attribute, name in twin.clipping_functions():
            self._replace(owner, attribute, self._noting(name, getattr(owner, attribute)))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *raised: object) -> None:
        self._undo.close()

    def call_of(self, made: Any) -> Optional[Dict[str, Any]]:
        """Return the call that made an object; None for None. Raises CaseError for what was not seen being made."""
        if made is None:
            return None
        if id(made) not in self._made:
            raise CaseError(f"{type(made).__name__} is none of the framework's own classes: only those are translated")
        return self._made[id(made)][1]

    def _replace(self, owner: Any, attribute: str, value: Any) -> None:
        self._undo.callback(setattr, owner, attribute, getattr(owner, attribute))
        setattr(owner, attribute, value)

    def _recording(self, name: str, cls: type, original: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def construct(made: Any, *arguments: Any, **named: Any) -> None:
            if id(made) in self._made or type(made) is not cls:
                original(made, *arguments, **named)
                return
            bound = signature.bind(made, *arguments, **named)
            for subject in ("params", "parameters"):
                if hasattr(bound.arguments.get(subject), "__next__"):
                    bound.arguments[subject] = list(bound.arguments[subject])
            call: Dict[str, Any] = {"$call": name, "arguments": {}}
            self._made[id(made)] = (made, call)
            groups = self._groups(bound.arguments)  # the framework fills these dicts in
            if groups:
                call["groups"] = groups
            original(*bound.args, **bound.kwargs)
            given = {key: value for key, value in bound.arguments.items() if key not in SUBJECTS}
            call["arguments"] = {key: self._plain(value) for key, value in given.items()}

        return construct

    def _groups(self, arguments: Mapping[str, Any]) -> List[Dict[str, Any]]:
        subjects = next((arguments[key] for key in ("params", "parameters") if key in arguments), ())
        if not isinstance(subjects, (list, tuple)) or not subjects or not isinstance(subjects[0], dict):
            return []
        return [{key: self._plain(value) for key, value in group.items() if key not in SUBJECTS} for group in subjects]

    def _noting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def call(*arguments: Any, **named: Any) -> Any:
            bound = signature.bind(*arguments, **named).arguments
            given = {key: self._plain(value) for key, value in bound.items() if key not in SUBJECTS}
            self.calls.append({"$call": name, "arguments": given})
            return original(*arguments, **named)

        return call

    def _plain(self, value: Any) -> Any:
        if id(value) in self._made:
            return self._made[id(value)][1]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [self._plain(each) for each in value]
        if isinstance(value, tuple):
            return {"$tuple": [self._plain(each) for each in value]}
        if hasattr(value, "item"):
            return value.item()
        if callable(value):
            return {"$expression": source_of(value)}
        raise CaseError(f"an argument of type {type(value).__name__} cannot be translated")


def source_of(function: Any) -> str:
    """Return a function's source: the text of a lambda, the name of any other. Raises CaseError where it is not found."""
    if function.__name__ != "<lambda>":
        return str(function.__name__)
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    try:
        tree = ast.parse(Path(code.co_filename).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        tree = ast.Module([], [])
    found = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda)
        and node.lineno == code.co_firstlineno
        and tuple(each.arg for each in node.args.args) == names
    }
    if len(found) != 1:
        where = f"line {code.co_firstlineno} of {Path(code.co_filename).name}"
        raise CaseError(f"the lambda at {where} was not told apart: give it a line of its own")
    return found.pop()


def serve_construction(
    client: Client,
    twin: Any,
    facts: Callable[[], messages.WorkerFacts],
    build: Callable[[], Tuple[Any, Any, Optional[Callable[[], None]]]],
) -> None:
    """Answer Construct until Finish. ``build`` gives the case's optimizer and scheduler, and what clips if anything."""
    while True:
        message = client.receive()
        if isinstance(message, messages.Finish):
            return
        if not isinstance(message, messages.Construct):
            raise ProtocolError(f"expected Construct or Finish, got {type(message).__name__}")
        client.status.enter("build")
        with Recorder(twin) as recorder:
            optimizer, scheduler, clip = _from_script(twin, Path(message.script)) if message.script else build()
            if clip is not None:
                clip()
            parts = {"optimizer": recorder.call_of(optimizer), "schedule": recorder.call_of(scheduler)}
            client.send(
                messages.Constructed(facts(), parts["optimizer"] or {}, parts["schedule"] or {}, recorder.calls)
            )


def _from_script(twin: Any, path: Path) -> Tuple[Any, Any, Callable[[], None]]:
    """Return what a script's ``construct(model, params)`` and ``clip(model, params)`` make of a small model."""
    module, takes = load_script(path, path.parent), ("model", "params")
    construct, clip = (find_function(module, name, path, takes) for name in ("construct", "clip"))
    model = twin.sample_model()
    params = list(model.parameters())
    optimizer, scheduler = call_script("the expressions", path.parent, lambda: construct(model, params))

    def clipped() -> None:
        twin.give_gradients(model)
        call_script("the clip", path.parent, lambda: clip(model, params))

    return optimizer, scheduler, clipped

"""Tells when a script's own loop runs backward and when its optimizers update: what torch's own hooks see."""

from __future__ import annotations

from typing import Any, Callable

import torch

from stepalign.protocol.errors import CaseError


def watch_backward(before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """Call ``before`` and ``after`` around every backward pass of the process; return what ends that."""
    engine: Any = torch.autograd
    original = engine.backward

    def backward(*arguments: Any, **named: Any) -> Any:
        before()
        result = original(*arguments, **named)
        after()
        return result

    engine.backward = backward
    return lambda: setattr(engine, "backward", original)


def watch_updates(optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """Call ``before`` and ``after`` around every update of an optimizer; return what ends that.

    An update that evaluates the loss itself, ``optimizer.step(closure)``, raises CaseError.
    """

    def begin(_: Any, arguments: Any, named: Any) -> None:
        if any(callable(value) for value in (*arguments, *named.values()) if value is not optimizer):
            raise CaseError(
                "optimizer.step(closure) evaluates the loss inside the update, which cannot be followed: call "
                "loss.backward() and then optimizer.step() without a closure"
            )
        before()

    first = optimizer.register_step_pre_hook(begin)
    last = optimizer.register_step_post_hook(lambda _, arguments, named: after())

    def end() -> None:
        first.remove()
        last.remove()

    return end

"""Tells when a script's own loop runs backward and when its optimizers update: paddle has no hooks for it."""

from __future__ import annotations

from typing import Any, Callable

import paddle


def watch_backward(before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """Call ``before`` and ``after`` around every backward pass of the process; return what ends that."""
    engine: Any = paddle.base.core.eager
    original = engine.run_backward

    def backward(*arguments: Any, **named: Any) -> Any:
        before()
        result = original(*arguments, **named)
        after()
        return result

    engine.run_backward = backward
    return lambda: setattr(engine, "run_backward", original)


def watch_updates(optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """Call ``before`` and ``after`` around every update of an optimizer; return what ends that.

    Both ways to update are followed: ``optimizer.step()`` and ``optimizer.minimize(loss)``.
    """
    for name in ("step", "minimize"):
        setattr(optimizer, name, _between(getattr(optimizer, name), before, after))

    def end() -> None:
        del optimizer.step, optimizer.minimize

    return end


def _between(method: Callable[..., Any], before: Callable[[], None], after: Callable[[], None]) -> Callable[..., Any]:
    """Wrap a method so that it is told of before and after."""

    def watched(*arguments: Any, **named: Any) -> Any:
        before()
        result = method(*arguments, **named)
        after()
        return result

    return watched

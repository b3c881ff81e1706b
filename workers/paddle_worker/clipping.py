"""The gradients as the optimizer uses them, after what clips them inside its own step.

Paddle's optimizers clip in their step, group by group, and only ClipGradByGlobalNorm leaves the result in the
gradients. The results are therefore taken where they arise, from the clip objects.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, List, Tuple

from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.paddle_worker.optimizer import owned_parameters, parameter_groups
from stepalign.workers.paddle_worker.tensors import to_numpy


def clips_inside(optimizer: Any) -> bool:
    """Tell whether the optimizer's step changes gradients before it uses them."""
    return bool(_clips(optimizer))


@contextmanager
def used_gradients(optimizer: Any, model: Any, room: Room = own_room) -> Iterator[Arrays]:
    """Yield a dict that holds, once ``optimizer.step()`` has run inside, what it used, by parameter name."""
    used: Arrays = {}
    names = {}
    for owned in owned_parameters(optimizer, model):
        names[id(owned.parameter)] = owned.name
        if owned.parameter.grad is not None and owned.group.get("grad_clip", optimizer._grad_clip) is None:
            used[owned.name] = to_numpy(owned.parameter.grad, room)
    with ExitStack() as undo:
        for clip in _clips(optimizer):
            clip._dygraph_clip = _recording(clip._dygraph_clip, names, used, room)
            undo.callback(clip.__dict__.pop, "_dygraph_clip")
        yield used


def _clips(optimizer: Any) -> List[Any]:
    """List the optimizer's clip objects, each once."""
    clips = [group.get("grad_clip", optimizer._grad_clip) for group in parameter_groups(optimizer)]
    return list({id(clip): clip for clip in clips if clip is not None}.values())


def _recording(clip: Any, names: Any, used: Arrays, room: Room) -> Any:
    """Wrap a clip's function so that what it returns is copied into ``used``."""

    def clip_and_record(pairs: List[Tuple[Any, Any]]) -> List[Tuple[Any, Any]]:
        clipped: List[Tuple[Any, Any]] = clip(pairs)
        for parameter, gradient in clipped:
            if gradient is not None:
                whole = gradient if parameter.shape else gradient.reshape([])  # a clip by the global norm makes [] to [1]
                used[names[id(parameter)]] = to_numpy(whole, room)
        return clipped

    return clip_and_record

"""The gradients as the optimizer uses them, after what clips them inside its own step.

Torch clips between backward and the step, in place; its optimizers do not clip.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator

from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.torch_worker.optimizer import owned_parameters
from stepalign.workers.torch_worker.tensors import to_numpy


def clips_inside(optimizer: Any) -> bool:
    """Tell whether the optimizer's step changes gradients before it uses them: torch's never does."""
    return False


@contextmanager
def used_gradients(optimizer: Any, model: Any, room: Room = own_room) -> Iterator[Arrays]:
    """Yield a dict that holds, once ``optimizer.step()`` has run inside, what it used, by parameter name."""
    used: Arrays = {}
    for owned in owned_parameters(optimizer, model):
        if owned.parameter.grad is not None:
            used[owned.name] = to_numpy(owned.parameter.grad, room)
    yield used

"""The one contract between a user's script and stepalign: what `build(case)` returns. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional


@dataclass(frozen=True)
class Training:
    """Everything that one side needs to train.

    model: ``torch.nn.Module`` or ``paddle.nn.Layer``.
    loss: ``(model, batch) -> scalar tensor``; ``batch`` maps names to framework tensors on the side's device.
    optimizer: the framework's optimizer over the model's parameters.
    scheduler: the framework's learning-rate scheduler or None; stepped once after each optimizer step.
    scheduler_metric: None, or ``"loss"`` to step the scheduler with the step's loss (reduce on plateau).
    after_backward: None, or ``(model) -> None``, called between backward and the update (gradient clipping).
    """

    model: Any
    loss: Callable[[Any, Dict[str, Any]], Any]
    optimizer: Any
    scheduler: Any = None
    scheduler_metric: Optional[str] = None
    after_backward: Optional[Callable[[Any], None]] = None

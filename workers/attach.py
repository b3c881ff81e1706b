"""`attach`: how a training script that owns its loop meets the coordinator, in four lines.

    from stepalign.workers import attach

    client = attach()
    for batch in client.batches(loader, model=model, optimizer=optimizer, scheduler=scheduler):
        ...
        client.step(loss=loss)

Without a coordinator the script trains on its own batches, and nothing else happens. Standard library only, so that a
script that runs alone needs nothing else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

if TYPE_CHECKING:
    from stepalign.workers.own_loop import Attached


class Alone:
    """What a script gets where no coordinator started it: its own batches, and a step that does nothing."""

    attached = False

    def batches(
        self,
        loader: Any = None,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        names: Union[str, Sequence[str], None] = None,
        numpy: bool = False,
        length: Optional[int] = None,
    ) -> Any:
        """Return ``loader``; the other arguments are for the coordinator."""
        return loader

    def step(self, loss: Any = None, *, optimizer: Any = None, model: Any = None) -> None:
        """Do nothing."""


def attach() -> Union["Alone", "Attached"]:
    """Return the coordinator's client where ``stepalign run`` started this script, else one that changes nothing.

    Call it once and early: seeds, threads, the default dtype and deterministic kernels are set here, as the case has
    them. Raises CaseError where the process holds the other framework too, or is one of several of its side.
    """
    if "STEPALIGN_ENDPOINT" not in os.environ:
        return Alone()
    from stepalign.workers import startup

    startup.secure(os.environ["STEPALIGN_FRAMEWORK"])
    try:
        from stepalign.workers.own_loop import Attached
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "stepalign":
            raise
        startup.end_without_packages(error)
    return Attached.from_environment()

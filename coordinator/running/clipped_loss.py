"""Decides how far paddle's clipped softmax accounts for a run's failures: a clipped loss is not the port's fault.

Each failing loss is proved on its own: its step is replayed for the model's outputs, and both losses must be the same
formula but for the clip. What else failed may follow from such a loss or not; that cannot be told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional, Sequence

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.diagnosis.loss.loss_formula import softmax_clipping
from stepalign.coordinator.running.locate import replay_loss_sites
from stepalign.coordinator.sessions.members import Crew
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.errors import StepalignError


def first_beyond_clipping(
    case: Case,
    crew: Crew,
    folder: Path,
    names: NameMap,
    proved: Comparison,
    failures: Sequence[Comparison],
    batches: BatchSource,
    on_tick: Callable[[], None],
) -> Optional[Comparison]:
    """Return the first failure that is not a loss proved to be clipped; None if clipping accounts for all.

    ``proved`` is the failing loss that is known to be clipped; ``failures`` are all of the run, in causal order.
    """
    losses = [item for item in failures if item.kind == "loss" and item.step != proved.step]
    other = next((item for item in failures if item.kind != "loss"), None)
    if other is not None or not losses:
        return other
    try:
        sites = replay_loss_sites(case, crew, folder, names, [item.step for item in losses], batches, on_tick)
    except StepalignError:
        return losses[0]
    pairs = zip(losses, sites, strict=True)
    return next((item for item, site in pairs if site is None or softmax_clipping(site) is None), None)


def clipping_warning(proved: Comparison, beyond: Comparison) -> str:
    """Return why nothing can be said after a loss that paddle clipped."""
    return (
        f"at step {proved.step} paddle's softmax clips logits 64 below the greatest, which no port can avoid on the "
        f"CPU: the losses differ from there on. {beyond.kind.replace('_', ' ')} {beyond.name} at step {beyond.step} "
        f"differs too ({beyond.reason}), and whether that follows from it cannot be told. Keep logits within 64 of "
        "each other to compare further (a smaller scale, a normalisation before the last layer)"
    )

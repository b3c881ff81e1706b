"""What the report shows beyond result.json: the map of differences, the modules, noise, and the first failing step.

Guarantees: its size is bounded, whatever the model's; it is made once, at the end, of what the run holds anyway. A
reader of details.json finds every key; a run that ended early has empty ones.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.comparison.canonical import canonical_arrays, canonical_state
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.results.details_json import SCHEMA, write_details_json
from stepalign.coordinator.running.run_state import Run
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import Named
from stepalign.protocol.specs import ModuleSpec

MAX_MODULES = 1500
MAX_TENSORS = 24
MAX_NOISE_STEPS = 2000
WORST_ELEMENTS = 8
BIN_EDGES = tuple(round(-4 + 0.25 * number, 2) for number in range(41))
"""The histogram's bins: log10(difference / allowed) from -4 to 6; what is beyond falls into the outer bins."""
_MAX_ELEMENTS = 1 << 24


def write_details(run: Run) -> None:
    """Write details.json into the run folder."""
    write_details_json(run.folder, details_of(run))


def details_of(run: Run) -> Dict[str, Any]:
    """Return what details.json holds."""
    names = run.session.names if run.session is not None else NameMap((), ())
    return {
        "schema": SCHEMA,
        "case_folder": str(run.case.folder),
        "map": run.record.map.to_plain(),
        "tensors": [piece.name for piece in names.pieces],
        "modules": _modules(run, names),
        "bad_module": bad_module(run),
        "noise": {"loss": _loss_noise(run)},
        "first_failure": _first_failure(run, names),
    }


def bad_module(run: Run) -> Optional[str]:
    """Return the path of torch's module that the first divergence lies in, or None; the model itself is ``""``."""
    if run.divergence is None or "torch" not in run.declarations:
        return None
    if run.located is not None and run.located.first is not None:
        return run.located.module if run.located.container is None else run.located.container
    name = (run.divergence.torch_name or "").partition("/")[0]
    paths = [module.path for module in run.declarations["torch"].modules]
    owners = [path for path in paths if path and (name == path or name.startswith(f"{path}."))]
    return max(owners, key=len, default=None)


def _modules(run: Run, names: NameMap) -> List[Dict[str, str]]:
    if "torch" not in run.declarations or "paddle" not in run.declarations:
        return []
    partners = dict(names.modules)
    theirs: Dict[str, ModuleSpec] = {module.path: module for module in run.declarations["paddle"].modules}
    found = []
    for module in run.declarations["torch"].modules[:MAX_MODULES]:
        partner = theirs.get(partners.get(module.path, ""))
        found.append(
            {
                "path": module.path,
                "type": module.type,
                "paddle_path": partner.path if partner is not None else "",
                "paddle_type": partner.framework_class if partner is not None else "",
            }
        )
    return found


def _loss_noise(run: Run) -> List[Tuple[int, float]]:
    """Return the control's differences by step: of a long run the greatest of each stretch."""
    measured = run.noise.of("loss", "loss") if run.noise is not None else []
    stretch = max(1, -(-len(measured) // MAX_NOISE_STEPS))
    return [max(measured[at : at + stretch], key=lambda entry: entry[1]) for at in range(0, len(measured), stretch)]


def _first_failure(run: Run, names: NameMap) -> Optional[Dict[str, Any]]:
    """Return the details of the first step that has a failure: its worst tensors, each with its differences."""
    judgement = run.first_failed or run.record.failures.first
    if judgement is None:
        return None
    pair = run.record.pairs.get(judgement.step)
    items = [item for item in judgement.comparisons if item.measures is not None and item.measures.count > 1]
    tensors = []
    if pair is not None:
        held = _HeldArrays(pair, names)
        for item in _spread_over_kinds(items):
            arrays = held.of(item)
            if arrays is not None:
                tensors.append(_described(item, *arrays))
    return {"step": judgement.step, "tensors": tensors, "edges": list(BIN_EDGES)}


def _spread_over_kinds(items: Sequence[Comparison]) -> List[Comparison]:
    """Choose at most `MAX_TENSORS`, in order, the first of each kind in turn: one kind must not take all the room."""
    by_kind: Dict[str, List[Comparison]] = {}
    for item in items:
        by_kind.setdefault(item.kind, []).append(item)
    ranks = {id(item): rank for found in by_kind.values() for rank, item in enumerate(found)}
    chosen = {id(item) for item in sorted(items, key=lambda item: ranks[id(item)])[:MAX_TENSORS]}
    return [item for item in items if id(item) in chosen]


class _HeldArrays:
    """Both sides' arrays of one step, in torch's names and layout; each kind is turned into them once."""

    def __init__(self, pair: StepPair, names: NameMap) -> None:
        self._names = names
        self._sides = (("torch", pair.reference.tensors), ("paddle", pair.candidate.tensors))
        self._kinds: Dict[str, List[Mapping[str, Any]]] = {}

    def of(self, item: Comparison) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        """Return a comparison's arrays, or None where a side's are gone or no longer of one shape."""
        torch, paddle = (self._find(item, side) for side in (0, 1))
        if torch is None or paddle is None or torch.shape != paddle.shape or not torch.size:
            return None
        return torch, paddle

    def _find(self, item: Comparison, side: int) -> Optional[np.ndarray]:
        arrays = self._of_kind(item.kind)[side]
        name = item.torch_name or ""
        if item.kind == "activation":
            name = name if side == 0 else item.paddle_name or ""
        elif item.kind == "optimizer_state":
            tensor, _, slot = name.rpartition("/")
            found: Optional[np.ndarray] = arrays.get(tensor, {}).get(slot)
            return found
        return arrays.get(name)

    def _of_kind(self, kind: str) -> List[Mapping[str, Any]]:
        if kind not in self._kinds:
            self._kinds[kind] = [self._in_torchs_terms(kind, side, held.get(kind, {})) for side, held in self._sides]
        return self._kinds[kind]

    def _in_torchs_terms(self, kind: str, side: str, arrays: Named) -> Mapping[str, Any]:
        if kind == "activation":
            return arrays
        if kind == "optimizer_state":
            return canonical_state(self._names, side, arrays)
        return canonical_arrays(self._names, side, arrays)


def _described(item: Comparison, torch: np.ndarray, paddle: np.ndarray) -> Dict[str, Any]:
    stride = -(-torch.size // _MAX_ELEMENTS)
    ours, theirs = torch.reshape(-1)[::stride].astype(np.float64), paddle.reshape(-1)[::stride].astype(np.float64)
    with np.errstate(all="ignore"):
        difference = np.abs(theirs - ours)
        ratio = difference / (item.atol + item.rtol * np.abs(ours))
        levels = np.clip(np.log10(ratio[difference > 0]), BIN_EDGES[0], BIN_EDGES[-1])
    finite = np.isfinite(levels)
    counts, _ = np.histogram(levels[finite], BIN_EDGES)
    worst = np.argsort(np.where(np.isfinite(difference), difference, np.inf))[::-1][:WORST_ELEMENTS]
    return {
        "kind": item.kind,
        "torch_name": item.torch_name,
        "paddle_name": item.paddle_name,
        "shape": list(torch.shape),
        "dtype": str(torch.dtype),
        "elements": int(torch.size),
        "looked_at": int(ours.size),
        "equal": int(np.count_nonzero(difference == 0)),
        "not_finite": int(np.count_nonzero(~np.isfinite(difference))),
        "counts": counts.tolist(),
        "worst": [
            {
                "index": [int(number) for number in np.unravel_index(int(place) * stride, torch.shape)],
                "torch": float(ours[place]),
                "paddle": float(theirs[place]),
                "difference": float(difference[place]),
            }
            for place in worst
        ],
    }

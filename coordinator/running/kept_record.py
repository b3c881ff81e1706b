"""The judge's memory and the record of a run as arrays and plain values, and back.

Guarantees: what comes back is equal to what went in, to the last bit; whole tensors of steps (`Record.pairs`) are not
kept, only which steps had them.
"""

from __future__ import annotations

import typing
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import is_turned
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.judge_memory import JudgeMemory
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.results.records import from_strict_number
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.running.recorder import Record
from stepalign.coordinator.running.series import filled_room
from stepalign.protocol.messages import Named
from stepalign.protocol.schema import from_plain, to_plain

_SEPARATOR = "\n"
_FLOATS = frozenset(name for name, kind in typing.get_type_hints(Measures).items() if kind is float)


def pack_memory(memory: JudgeMemory) -> Tuple[Named, Dict[str, Any]]:
    """Return a judge's memory as arrays and plain values. A matrix that is stored transposed is given as it lies: the side's
    own state has the same bytes, which are kept once.
    """
    arrays: Named = {}
    for side in (0, 1):
        arrays.update({f"before{side}/{name}": array for name, array in memory.before[side].items()})
        for name, slots in memory.state_before[side].items():
            arrays.update({f"state{side}/{name}/{slot}": array for slot, array in slots.items()})
    turned = [key for key, array in arrays.items() if is_turned(array)]
    arrays.update({key: arrays[key].T for key in turned})
    return arrays, {
        "turned": turned,
        "drift": memory.drift,
        "peak_rate": memory.peak_rate,
        "variants": {name: list(map(list, variant.items())) for name, variant in memory.variants.items()},
        "rounding": [[name, side, text] for (name, side), text in memory.rounding.items()],
        "adrift": sorted(memory.adrift),
    }


def unpack_memory(arrays: Named, plain: Mapping[str, Any]) -> JudgeMemory:
    """Return the memory that `pack_memory` was given."""
    before: Tuple[Named, Named] = ({}, {})
    states: Tuple[Dict[str, Named], Dict[str, Named]] = ({}, {})
    turned = frozenset(plain["turned"])
    for key, stored in arrays.items():
        array = stored.T if key in turned else stored
        kind, _, name = key.partition("/")
        side = int(kind[-1])
        if kind.startswith("before"):
            before[side][name] = array
        else:
            tensor, _, slot = name.rpartition("/")
            states[side].setdefault(tensor, {})[slot] = array
    return JudgeMemory(
        before,
        states,
        from_strict_number(plain["drift"]),
        from_strict_number(plain["peak_rate"]),
        {name: {key: _scalar(value) for key, value in variant} for name, variant in plain["variants"].items()},
        {(name, side): text for name, side, text in plain["rounding"]},
        set(plain["adrift"]),
    )


def pack_record(record: Record) -> Tuple[Named, Dict[str, Any]]:
    """Return a record as arrays (one row a step, failures packed as they lie) and plain values."""
    levels, map_ = record.map.pack()
    arrays: Named = {
        "map": levels,
        "loss_passed": record.loss_passed.stacked(),
        "rate_passed": record.rate_passed.stacked(),
    }
    for side in (0, 1):
        arrays[f"losses{side}"] = record.losses[side].stacked()
        arrays[f"rates{side}"] = record.rates[side].stacked()
        arrays[f"digests{side}"] = record.batch_digests[side].joined()
    pieces = [np.frombuffer(piece, np.uint8) for piece in record.failures.packed()]
    sizes = [piece.size for piece in pieces]
    arrays["failures"] = filled_room((sum(sizes),), np.dtype(np.uint8), pieces)
    return arrays, {
        "seconds": list(record.seconds),
        "known": [to_plain(item) for item in record.known.values()],
        "worst": [to_plain(item) for item in record.worst.values()],
        "counts": record.counts,
        "clipped": record.clipped,
        "failures": sizes,
        "last_failed_step": record.failures.last_step,
        "map": map_,
        "whole_steps": sorted(record.pairs),
        "whole_size_bytes": record.pairs_size_bytes,
    }


def unpack_record(record: Record, arrays: Named, plain: Mapping[str, Any]) -> List[int]:
    """Put what `pack_record` gave into a fresh record; return the steps whose whole tensors it had."""
    for side in (0, 1):
        text = arrays[f"digests{side}"].tobytes().decode("utf-8", "surrogateescape")
        for loss, rates, digest in zip(arrays[f"losses{side}"], arrays[f"rates{side}"].tolist(), text.split(_SEPARATOR)):
            record.losses[side].append(np.array(loss))
            record.rates[side].append(rates)
            record.batch_digests[side].append(digest)
    for loss_passed, rate_passed in zip(arrays["loss_passed"].tolist(), arrays["rate_passed"].tolist()):
        record.loss_passed.append(loss_passed)
        record.rate_passed.append(rate_passed)
    record.seconds = (float(plain["seconds"][0]), float(plain["seconds"][1]))
    known = [from_plain(KnownDifference, item) for item in plain["known"]]
    record.known.update({(item.code, item.torch_name): item for item in known})
    record.worst.update({item.kind: item for item in map(_comparison, plain["worst"])})
    record.counts.update(plain["counts"])
    record.clipped = plain["clipped"]
    record.map.unpack(arrays["map"], plain["map"])
    packed, start = arrays["failures"], 0
    for size in plain["failures"]:
        record.failures.restore(packed[start : start + size].tobytes())
        start += size
    record.failures.last_step = plain["last_failed_step"]  # a later one than those that are kept
    record.pairs_size_bytes = plain["whole_size_bytes"]
    return list(plain["whole_steps"])


def _comparison(written: Dict[str, Any]) -> Comparison:
    values = dict(written)
    for name in ("rtol", "atol"):
        values[name] = from_strict_number(values[name])
    if values["measures"] is not None:
        measures = dict(values["measures"])
        measures.update({name: from_strict_number(measures[name]) for name in _FLOATS})
        values["measures"] = measures
    return from_plain(Comparison, values)


def _scalar(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

"""What the code of a module had where the sides came to differ: values in which both agree, by names that people know."""

from __future__ import annotations

from typing import Iterable, Iterator, Tuple

import numpy as np

from stepalign.coordinator.running.activation_names import argument_of, is_input, is_output, module_of, shown_path
from stepalign.coordinator.running.recorded_step import RecordedStep
from stepalign.protocol.tensors import digest


def agreed_values(until: str, call: str, record: RecordedStep) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield what a call's own code had, by paddle's names, where both sides agree in it: what it was given, what it gave to
    its calls that is neither that nor an output, as a sum is, then outputs.
    """
    order = list(record.comparisons)
    begun, end = f"{call}@input", order.index(until)
    start = order.index(begun) if begun in order[:end] else 0
    had = [key for key in order[start:end] if record.comparisons[key].passed]
    outputs = [key for key in had if is_output(key)]
    inputs = list(_own_inputs(had, begun))
    forms = {_form(record.torch[key]) for key in inputs if key != begun}
    known = {digest({"": record.torch[key]}) for key in [begun, *outputs] if key in had and _form(record.torch[key]) in forms}
    for key in inputs:
        identity = "" if key == begun else digest({"": record.torch[key]})
        if identity not in known:
            known.add(identity)
            yield f"what goes into {shown_path(module_of(record.partner(key)))}", record.torch[key]
    for key in outputs:
        yield record.partner(key), record.torch[key]


def _form(array: np.ndarray) -> Tuple[Tuple[int, ...], str]:
    """Return what arrays of the same bytes have in common, so that few are read for their digests."""
    return array.shape, array.dtype.str


def given_arguments(container: str, record: RecordedStep) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield the further arguments of a call, masks among them, in which both sides agree."""
    for key in record.inputs(container):
        if argument_of(key) and key in record.comparisons and record.comparisons[key].passed:
            yield argument_of(key), record.torch[key]


def _own_inputs(keys: Iterable[str], begun: str) -> Iterator[str]:
    """Yield the first inputs of the calls that lie in no other call of these but the one that had begun."""
    inputs = [key for key in keys if is_input(key) and not argument_of(key)]
    outer = tuple(f"{module_of(key)}." for key in inputs if key != begun and module_of(key))
    return (key for key in inputs if key == begun or not module_of(key).startswith(outer))

"""Records that a rule takes alike are predicted at once: the same residuals, in the same order, as one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.updates.knob_fit import _residuals, _sample, _spread, sampled
from stepalign.coordinator.diagnosis.updates.optimizer_case import Case, few
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace

from .simulated_port import Port, simulate


def cases_of(port: Port) -> list[Case]:
    """Return every parameter's case, one of them cut to a single element."""

    def cut(trace: ParameterTrace) -> ParameterTrace:
        records = tuple(
            replace(
                record,
                before=record.before[:1],
                gradient=None if record.gradient is None else record.gradient[:1],
                after=record.after[:1],
                state_before={slot: value[:1] if value.ndim else value for slot, value in record.state_before.items()},
                state_after={slot: value[:1] if value.ndim else value for slot, value in record.state_after.items()},
            )
            for record in trace.paddle
        )
        return replace(trace, paddle=records)

    traces = [cut(trace) if trace.torch_name == "norm.bias" else trace for trace in simulate(port)]
    hyper = port.hyper()
    return [Case(trace, port.rule, hyper[trace.torch_name], trace.paddle) for trace in traces]


PORTS = [
    Port("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.0}, torch_own={"norm.bias": {"weight_decay": 0.0}}),
    Port("NAdam", {}, {"beta1": 0.85}, steps=6),
    Port("SGD", {"momentum": 0.9}, {"momentum": 0.95}, lr=0.1),
    Port("Rprop", {}, {}, lr=0.01),
    Port("ASGD", {}, {}, dtype="float64"),
]


@pytest.mark.parametrize("port", PORTS, ids=lambda port: port.rule)
@pytest.mark.parametrize("change", [{}, {"weight_decay": 0.05}, {"beta1": 0.5, "momentum": 0.5}, {"maximize": True}])
def test_joined_records_give_the_residuals_of_each_by_itself(port: Port, change: dict[str, Any]) -> None:
    def changed(case: Case) -> Case:
        return replace(case, hyper={**case.hyper, **change})

    cases = cases_of(port)
    samples = sampled(cases)
    alone = [_sample(case, record) for case in few(cases) for record in _spread(case.records)]
    assert len(samples.joined) < len(alone)
    parts = [_residuals(sampled([replace(sample.case, records=(sample.record,))]), changed) for sample in alone]
    assert samples.order.size == sum(part.size for part in parts)
    assert _residuals(samples, changed).tobytes() == np.concatenate(parts).tobytes()


def test_records_of_other_hyper_parameters_rates_or_counts_are_kept_apart() -> None:
    cases = cases_of(PORTS[0])
    sizes = [sample.record.before.size for sample in sampled(cases).joined]
    assert len(sizes) == 2 * 3 and sum(sizes) == 3 * sum(case.records[0].before.size for case in few(cases))
    slower = [replace(case, records=tuple(replace(record, lr=0.5) for record in case.records)) for case in cases[:1]]
    assert len(sampled([*slower, *cases[1:]]).joined) == 3 * 3

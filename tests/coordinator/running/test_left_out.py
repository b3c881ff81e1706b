"""Parameters that train and are left out of the comparison."""

from __future__ import annotations

from dataclasses import replace

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.running.left_out import trained_though_left_out
from stepalign.coordinator.sessions.naming import match_names
from stepalign.protocol.specs import Declaration, OptimizerSpec, TensorSpec


def declared(*names: str, trainable: bool = True) -> Declaration:
    tensors = tuple(TensorSpec(name, "parameter", (3,), "float32", trainable, "", "Net", name) for name in names)
    return Declaration(tensors, (), OptimizerSpec("SGD", "SGD", ()), None, None, False)


def warned(torch: Declaration, paddle: Declaration, *ignored: str) -> list[str]:
    names = match_names(torch.tensors, paddle.tensors, WeightsSection(ignore=list(ignored)))
    return trained_though_left_out(names, {"torch": torch, "paddle": paddle})


def test_a_parameter_that_trains_and_is_left_out_is_named_on_its_side() -> None:
    (warning,) = warned(declared("w", "logit_scale"), declared("w", "scale"), "logit_scale", "scale")
    assert "that train: logit_scale in torch and scale in paddle; neither" in warning
    (warning,) = warned(declared("w"), declared("w", "scale"), "scale")
    assert "that train: scale in paddle; neither" in warning


def test_what_is_compared_or_does_not_train_is_not_named() -> None:
    frozen = replace(declared("w"), tensors=(*declared("w").tensors, *declared("mask", trainable=False).tensors))
    assert warned(declared("w"), declared("w")) == []
    assert warned(frozen, declared("w"), "mask") == []

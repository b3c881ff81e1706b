"""Causes from the numbers after a divergence, one function for each kind of value."""

from __future__ import annotations

from stepalign.coordinator.diagnosis.gradients.gradient_causes import explain_gradients
from stepalign.coordinator.diagnosis.loss.loss_causes import explain_loss
from stepalign.coordinator.diagnosis.modules.activation_causes import explain_activation
from stepalign.coordinator.diagnosis.weight_causes import explain_initial_weights

__all__ = ["explain_activation", "explain_gradients", "explain_initial_weights", "explain_loss"]

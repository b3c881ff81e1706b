"""Two workers of one case whose optimizers are built again and again and driven by given gradients, without a model's
forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stepalign.coordinator.cases.case import Case, WeightsSection
from stepalign.coordinator.sessions.naming import NameMap, match_names
from stepalign.coordinator.sessions.session import Member, Session
from stepalign.protocol import messages
from stepalign.protocol.messages import Named


class OptimizerSession(Session):
    """A session of optimizers. Its two members are torch, the reference, and paddle, the candidate."""

    def __init__(self, case: Case, members: tuple[Member, Member], on_tick: Callable[[], None]) -> None:
        super().__init__(case, members, "optimizer", on_tick)

    def __enter__(self) -> OptimizerSession:
        return self

    def configure(self) -> None:
        """Tell both what the case is; they import their framework and wait for what to build."""
        for member in self._members:
            self.switchboard.send(member.role, self._configuration(member))

    def build_optimizers(self, parameters: Mapping[str, Named], options: Mapping[str, Mapping[str, Any]]) -> None:
        """Have both build their optimizer anew, over parameters of these values or, where a side's are empty, its own.

        Both mappings are by role. Afterwards `declarations` and `names` are those of the new optimizers.
        """
        requests = {
            member.role: messages.BuildOptimizer(dict(parameters[member.role]), dict(options.get(member.role, {})))
            for member in self._members
        }
        ready = self.switchboard.ask(requests, messages.Ready, self._case.file.deadline.build_s, "build")
        for member in self._members:
            self._take_facts(member, ready[member.role].facts)
            self.declarations[member.role] = ready[member.role].declaration
        held = all(parameters[member.role] for member in self._members)
        self.names = self._match_held() if held else self._match()
        self._forget_names()

    def apply_gradients(
        self, first: int, gradients: Mapping[str, Sequence[Named]], metrics: Sequence[float], kinds: tuple[str, ...]
    ) -> dict[str, list[messages.StepResult]]:
        """Have both make one update for each entry of their gradients (by role); return the results by role."""
        requests = {
            role: messages.ApplyGradients(first, list(steps), [float(metric) for metric in metrics], kinds)
            for role, steps in gradients.items()
        }
        timeout_s = self._case.file.deadline.step_s
        answers = self.switchboard.ask(requests, messages.GradientsApplied, timeout_s, "gradients")
        return {role: list(answer.results) for role, answer in answers.items()}

    def read_rates_watching(self, losses: np.ndarray) -> dict[str, np.ndarray]:
        """Return each side's rates, float64 [steps, groups]; a schedule that watches the loss sees ``losses`` [steps]."""
        request = messages.ReadRates(len(losses), np.asarray(losses, np.float64))
        answers = self.switchboard.ask(
            {member.role: request for member in self._members}, messages.Rates, self._case.file.deadline.rates_s, "rates"
        )
        return {role: answer.rates for role, answer in answers.items()}

    def _match_held(self) -> NameMap:
        """Match parameters that were sent: paddle's bear the names that the case's renaming gives to torch's."""
        torch, paddle = (self.declarations[member.role] for member in self._members)
        rules = WeightsSection(rename=self._case.file.weights.rename)
        return match_names(torch.tensors, paddle.tensors, rules, torch.modules, paddle.modules)

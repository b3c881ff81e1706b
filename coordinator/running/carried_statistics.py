"""Decides whether a run's failures come of nothing but the biased variance that paddle keeps in its running statistics.

No port can avoid that difference, and mostly it reaches nothing that is trained. It does where a batch norm in evaluation
mode normalises by statistics that move: those of a teacher that is an average of the model. Then losses and gradients differ
from the second step on. Whether anything else is wrong shows in a second run, in which both sides begin every step with the
same state: the difference does not last from one step to the next, a mistake is made anew in each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import List

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.diagnosis.wording import names as listed
from stepalign.coordinator.running.recorder import Record, Recorder
from stepalign.coordinator.running.replay import owning_sides
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.step_judge import begin_judge
from stepalign.coordinator.sessions.members import both
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPlan
from stepalign.protocol.errors import StepalignError

CODE = "batch_norm_running_variance"
_CARRIED_KINDS = ("loss", "gradient")


def follows_from_statistics(run: Run, failure: Comparison, watcher: Watcher) -> bool:
    """Say whether what failed first is carried over by running statistics alone; a warning then says so."""
    layers = evaluating_layers(run)
    file = run.case.file
    if not layers or failure.step == 0 or failure.kind not in _CARRIED_KINDS or file.compare.strict or file.compare.resync:
        return False
    if run.case.against is not None or owning_sides(run.case) or run.crew is None or run.batches is None:
        return False
    watcher.phase("repeating the run with both sides continuing from the same state after each step")
    try:
        record = _resynchronised(run, watcher)
    except StepalignError as error:
        if error.exit_code == 130:
            raise
        return False
    if record.steps < run.case.steps or record.first_failure() is not None:
        return False
    run.warnings.append(
        f"from step {failure.step} on {listed(layers)} normalises in evaluation mode by a running variance that paddle keeps "
        f"biased, which no port can avoid: {failure.kind} {failure.name} differs first ({failure.reason}). Repeated with both "
        f"sides continuing from the same state after each step, all {record.steps} steps agree"
    )
    return True


def evaluating_layers(run: Run) -> List[str]:
    """Return the batch norms in evaluation mode whose running variance moved and is known to differ."""
    known = {name for code, name in run.record.known if code == CODE}
    return [
        module.path
        for module in run.declarations["torch"].modules
        if "BatchNorm" in module.type and not module.training and f"{module.path}.running_var" in known
    ]


def _resynchronised(run: Run, watcher: Watcher) -> Record:
    """Return what came of all steps, whole, where each begins with the same state on both sides."""
    assert run.crew is not None and run.batches is not None and run.collection is not None
    case = replace(run.case, file=replace(run.case.file, compare=replace(run.case.file.compare, resync=1)))
    whole = run.collection.with_whole(range(case.steps))
    with Session(case, both(case, run.crew, run.folder), "train", watcher.tick) as session:
        session.start()
        session.build()
        recorder = Recorder(begin_judge(case, session, session.exchange_weights()), None, 1)
        session.step(StepPlan(0, case.steps, whole.kinds, lambda step: (), 1), run.batches, recorder.take)
    return recorder.record

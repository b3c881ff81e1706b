"""What follows a run's steps: the schedules alone, the verdict, the files of the run folder."""

from __future__ import annotations

from stepalign.coordinator.results.deliverables import attempt, write_loss_log, write_rate_log, write_result
from stepalign.coordinator.results.result import Result
from stepalign.coordinator.running.checkpoints import forget
from stepalign.coordinator.running.details import write_details
from stepalign.coordinator.running.heap import give_back
from stepalign.coordinator.running.judgement import judge_what_came
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.schedule import at_milestones, compare_schedules_of, defines_schedule
from stepalign.coordinator.running.verdict import result_of


def write_all(run: Run) -> Result:
    """Write the run folder's files and return the result; a file that cannot be written makes the run a failed one."""
    result = result_of(run)
    failure = attempt(
        lambda: write_details(run),
        lambda: write_result(run.folder, result),
        lambda: write_loss_log(run.folder, run.record),
        lambda: _write_rates(run),
    )
    give_back()
    if failure is None or run.error is not None:
        if run.error is None:
            forget(run.folder)
        return result
    run.error = failure
    if run.divergence is None:
        judge_what_came(run)
    else:
        run.warnings.append(f"the run itself came to its end, and the sides had diverged: {run.divergence.reason}")
    failed = result_of(run)
    attempt(lambda: write_result(run.folder, failed))
    return failed


def compare_both_schedules(run: Run, watcher: Watcher) -> None:
    """Compare the schedules alone, if the scripts define any, in the workers that have trained."""
    defined = defines_schedule(run.case)
    if not any(defined.values()):
        return
    if not all(defined.values()):
        alone = next(side for side, there in defined.items() if there)
        run.warnings.append(
            f"only the {alone} side's script defines schedule(case): schedules were not compared on their own"
        )
        return
    assert run.session is not None
    watcher.phase(f"comparing {run.case.file.schedule.steps} steps of both schedules")
    run.schedule = compare_schedules_of(run.case, run.session)
    run.compared["schedules"] = run.schedule.describe(run.case.file.schedule.chosen_milestones())


def _write_rates(run: Run) -> None:
    if run.schedule is not None:
        milestones = run.case.file.schedule.chosen_milestones()
        sides = at_milestones(run.schedule.rates[0], milestones), at_milestones(run.schedule.rates[1], milestones)
        write_rate_log(run.folder, sides, {step: run.schedule.passed_at(step) for step in milestones})
    elif run.record.steps:
        write_rate_log(run.folder, run.record.rates, run.record.rate_passed)

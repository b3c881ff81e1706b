"""What the place alone says of a divergence, where no formula fits its numbers: what to compare, and on which side to look."""

from __future__ import annotations

from typing import List, Optional

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.confined import confined
from stepalign.coordinator.diagnosis.wording import count, names
from stepalign.coordinator.running.activation_names import shown_path
from stepalign.coordinator.running.first_difference import Located

_CALLS_SHOWN = 3


def silent_output(located: Located) -> Cause:
    """Return why nothing flows back to an output on one side."""
    assert located.first is not None
    output = located.silent_output
    where = f"{located.way_back}; {located.first.reason}"
    if located.silent == "paddle":
        fix = f"look for .detach(), stop_gradient=True or paddle.no_grad() on the paddle side where {output} is computed or used"
        return Cause(Category.BACKWARD, "detached", 0.93, where, fix)
    fix = f"stop the gradient at {output} in the paddle script as torch does: .detach() or paddle.no_grad()"
    return Cause(Category.BACKWARD, "not_detached", 0.93, where, fix)


def other_calls(located: Located) -> Cause:
    """Return that the sides call their modules unequally often: for sure where one is called in another's stead.

    A module that one side alone calls may stand for a function on the other: an output layer for a product with its weight.
    """
    instead = {torch > paddle for _, (torch, paddle) in located.calls} == {True, False}
    said = [f"{path} is called {_times(torch)} in torch and {_times(paddle)} in paddle" for path, (torch, paddle) in located.calls]
    more = f" and {count(len(said) - _CALLS_SHOWN, 'other module')} unequally often" if len(said) > _CALLS_SHOWN else ""
    return Cause(
        Category.FORWARD,
        "module_calls",
        0.8 if instead else 0.4,
        f"in one step {'; '.join(said[:_CALLS_SHOWN])}{more}",
        f"call {names(path for path, _ in located.calls)} in paddle as often as torch does, with what torch gives",
    )


def other_order(located: Located) -> List[Cause]:
    """Return that the code in which the sides part calls its modules in another order; none where it does not."""
    code, module = shown_path(located.paddle_container or ""), located.paddle_module
    said = []
    for sooner, side, other in zip(located.sooner, ("torch", "paddle"), ("paddle", "torch")):
        first = next((path for path in sooner if not any(path.startswith(f"{outer}.") for outer in sooner)), None)
        if first is not None:
            said.append(f"{first} is called before {module} in {side} and after it in {other}")
    if not said:
        return []
    fix = f"call the modules of {code} in torch's order in the paddle model: a norm before or after what it normalises, say"
    if located.module != module:
        fix += f"; or pair torch's {located.module} with another module than {module} in [weights] rename"
    return [Cause(Category.FORWARD, "call_order", 0.7, f"in {code}, {' and '.join(said)}", fix)]


def _times(number_of_calls: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number_of_calls, f"{number_of_calls} times")


def random_forward(located: Located) -> Cause:
    """Return that a side draws random numbers in its forward pass."""
    sides = " and ".join(located.random_sides)
    return Cause(
        Category.RANDOMNESS,
        "changes_when_repeated",
        0.96,
        f"the same step from the same weights, run twice in one process, comes out otherwise on the {sides} side",
        f"find what draws random numbers in the forward pass of the {sides} side: dropout called as a function without "
        'training=self.training, noise, stochastic depth, sampling; or run with mode = "eval"',
    )


def as_data(cause: Cause) -> Cause:
    """Return a cause for what went into the first module: nothing of the model ran before, so the batch was changed."""
    if cause.category is not Category.FORWARD:
        return cause
    return Cause(
        Category.DATA,
        "input_differs",
        cause.confidence,
        f"what goes into the model's first module differs, before anything of the model ran: {cause.evidence}",
        "compare what both scripts do to the batch before the model: scaling, channel order, shifts, padding, dtype",
    )


def unexplained(failure: Optional[Comparison], located: Optional[Located]) -> Cause:
    """Return the least that can be said: where it starts."""
    assert failure is not None
    by_kind = {
        "batch": Category.DATA, "initial_parameter": Category.INITIAL_WEIGHTS, "lr": Category.SCHEDULE,
        "loss": Category.FORWARD, "activation": Category.FORWARD, "gradient": Category.BACKWARD,
        "optimizer_state": Category.OPTIMIZER, "parameter": Category.OPTIMIZER, "buffer": Category.BUFFER,
    }  # fmt: skip
    category = Category.BACKWARD if located is not None and located.backward else by_kind[failure.kind]
    where = where_and_why(failure)
    fix = "compare this place in both scripts"
    if located is not None and located.first is failure and located.outputs is not None:
        part = confined(*located.outputs, failure.rtol, failure.atol)
        where += f"; {part}" if part else ""
    if located is not None and located.container is not None:
        fix = f"compare both scripts {located.stretch}"
    elif located is not None and located.backward:
        module = located.paddle_module or "the model"
        where += f"; {located.way_back}"
        fix = f"look at what is computed from the output of {module} on the paddle side: detach, no_grad, a scaled gradient"
    elif failure.kind == "gradient" and located is not None and located.updated is not None:
        fix = (
            f"compare how both scripts come to the gradient of {failure.paddle_name} before it is used: terms of the loss, "
            "create_graph, what is detached"
        )
    elif located is not None and located.first is not None:
        hint = _hint(located)
        where += f"; {hint}" if hint else ""
        fix = f"compare {located.paddle_module} of the paddle side with {located.module} of the torch side"
        if located.updated is None and located.last_inside and not located.part:
            fix = f"compare the forward of {shown_path(located.paddle_module)} in both scripts, after {located.last_inside}"
        elif located.last_inside or not located.paddle_module:
            what = f", where it makes {located.part}" if located.part else ""
            fix = f"compare the forward of {shown_path(located.paddle_module)} in both scripts{what}"
    return Cause(category, f"{category.value}_differs", 0.3, where, fix)


def _hint(located: Located) -> str:
    """Say on which side of its inputs a module's output goes wrong."""
    if located.updated is not None:
        return "an optimizer updated in this step before the call: the weights may differ by then"
    if located.input_agrees is None:
        return ""
    if not located.input_agrees:
        return "its input already differs, so look just before it"
    inside = f", in its own code after {located.last_inside}" if located.last_inside else ""
    if located.last_inside and located.part:
        inside = ", in its own code, as all modules in it agree"
    if located.unlike:
        return (
            f"its first input agrees: the mistake is inside it{inside}, or in what else it is given and cannot be compared "
            f"({', '.join(located.unlike)})"
        )
    return f"all that it is given agrees: the mistake is inside it{inside}"


def where_and_why(failure: Comparison) -> str:
    """Say what failed first, at which step, and by how much."""
    return f"{failure.kind} {failure.name} at step {failure.step}: {failure.reason}"

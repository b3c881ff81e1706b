"""The words that the page's scripts put into charts, in the reader's language."""

from __future__ import annotations

from stepalign.coordinator.languages.translation import say


def chart_words() -> dict[str, str]:
    """Return the words by the names that the scripts use; ``{0}``, ``{1}`` stand for what it fills in."""
    return {
        "step": say("step"),
        "first_divergence": say("first divergence"),
        "loss_difference": say("difference of losses"),
        "rate_difference": say("difference of rates"),
        "allowed": say("tolerance"),
        "drift": say("drift of parameters"),
        "noise": say("measured noise: torch against itself"),
        "equal": say("equal to the last bit"),
        "within": say("within: {0} of what is allowed"),
        "beyond": say("out of tolerance, {0} times what is allowed"),
        "missing": say("out of tolerance: missing, not finite, or nothing is allowed"),
        "in_paddle": say("in paddle"),
        "greatest": say("greatest difference"),
        "rel_l2": say("relative L2"),
        "all_kinds": say("all kinds, the worst of each tensor"),
        "elements": say("elements"),
        "of_allowed": say("difference / tolerance of each element"),
        "equal_elements": say("{0} of {1} elements are equal to the last bit"),
        "not_finite": say("{0} elements are not finite"),
        "index": say("index"),
        "difference": say("difference"),
        "no_details": say("Elements are kept of the first failing step's worst tensors; they are listed above."),
        "choose": say("a tensor of step {0}"),
        "cannot_unpack": say("This browser cannot unpack the charts; the tables below hold their numbers."),
    }

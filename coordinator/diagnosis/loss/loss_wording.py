"""How a loss formula is said in words, and what to write in the port so that its formula is torch's."""

from __future__ import annotations

from stepalign.coordinator.diagnosis.loss.loss_readings import Reading

_DIVISORS = {
    "": "mean",
    "all": "sum over all labels, ignored ones counted, / their number",
    "none": "sum",
    "samples": "sum / samples",
    "rows": "mean of each sample's mean",
    "elements": "sum over samples of the mean of each element",
    "root": "root of the mean",
}
_ARGUMENTS = {"": "mean", "none": "sum"}
_LOGITS = {
    "clipped": "max(logit - greatest logit, -64)",
    "softmax_first": "softmax taken before it",
    "raw": "the output taken for log-probabilities",
    "logarithm": "the output taken for probabilities",
}

_BOTH = "the mean of both directions"
_AS_GIVEN = "the outputs as they are"


def shown(reading: Reading) -> str:
    """Return a formula in words: ``mean of the cross-entropy of <model> with y, label smoothing 0.1``."""
    rest = dict(reading.settings)
    text = f"{_DIVISORS[rest.pop('divisor', '')]} of the {reading.loss} of {reading.output} with {reading.target}"
    return ", ".join([text, *(_worded(aspect, setting) for aspect, setting in rest.items())])


def _worded(aspect: str, setting: str) -> str:
    return {
        "smoothing": f"label smoothing {setting}",
        "logits": _LOGITS.get(setting, setting),
        "axis": f"classes on {setting}",
        "ignored": f"{setting} ignored",
        "factor": f"times {setting}",
        "scale": f"logits times {setting}",
        "pos_weight": f"pos_weight {setting}",
        "labels": f"labels {setting}",
    }.get(aspect, setting)


def fix_of(aspect: str, torch: str, paddle: str) -> str:
    """Return what makes an aspect of paddle's formula torch's, from both sides' settings; "" is the plain one."""
    if aspect == "logits":
        return _fix_logits(torch, paddle)
    if aspect == "divisor":
        return _fix_divisor(torch, paddle)
    if aspect == "form":
        return _fix_form(torch, paddle)
    return {
        "smoothing": f"label_smoothing={torch.partition(' ')[0] or '0.0'} in paddle's cross_entropy or CrossEntropyLoss"
        + ("" if "(" not in torch + paddle else ", which gives each of K classes, the right one too, label_smoothing / K"),
        "axis": "axis=1 in paddle's cross_entropy where torch's classes are on axis 1: paddle's default is -1",
        "tokens": f"pair logits and labels as torch does: {torch or 'each position with its own label'}",
        "ignored": f"leave out of paddle's loss what torch leaves out: {torch or 'nothing but negative labels'}",
        "factor": f"multiply paddle's loss by {torch or '1'}, as torch does, instead of {paddle or '1'}",
        "scale": f"multiply paddle's logits by {torch or '1'} before the loss, not by {paddle or '1'}",
        "pairing": "give output and target one shape before paddle's loss: [N, 1] against [N] broadcasts to [N, N]"
        if paddle
        else "torch's loss broadcasts [N, 1] against [N] to [N, N]: give output and target one shape in torch",
        "pos_weight": f"pos_weight={torch or '1.0'} in paddle.nn.functional.binary_cross_entropy_with_logits",
        "directions": f"take both cross-entropies as torch does: {torch or _BOTH}, instead of {paddle or _BOTH}",
        "vectors": f"give paddle's products what torch gives them: {torch or _AS_GIVEN}, instead of {paddle or _AS_GIVEN}",
        "labels": f"use the labels as torch does, {torch or 'as given'}, instead of {paddle or 'as given'}",
    }[aspect]


def _fix_logits(torch: str, paddle: str) -> str:
    if paddle == "softmax_first":
        return "give paddle's cross_entropy the logits: remove the softmax before it, or use_softmax=False"
    if torch == "softmax_first":
        return "torch's cross_entropy is given probabilities and takes softmax again: remove it there or add it here"
    if "clipped" in (torch, paddle):
        return "keep logits within 64 of each other: no argument of paddle turns the clipping off"
    return (
        "take the same step from scores to log-probabilities in paddle: cross_entropy takes logits, nll_loss "
        "log-probabilities, cross_entropy(use_softmax=False) probabilities"
    )


def _fix_divisor(torch: str, paddle: str) -> str:
    if {torch, paddle} == {"", "all"}:
        return (
            "paddle's cross_entropy with a negative ignore_index (-100, -1) divides by all labels: use an ignore_index "
            ">= 0, or reduction='sum' and divide by the number of labels that are not ignored"
        )
    if torch in _ARGUMENTS and paddle in _ARGUMENTS:
        return f"reduction='{_ARGUMENTS[torch]}' in the paddle loss, as in torch"
    return f"reduce paddle's loss as torch's: {_DIVISORS[torch]}, instead of {_DIVISORS[paddle]}"


def _fix_form(torch: str, paddle: str) -> str:
    if "Huber" in torch or "Huber" in paddle:
        return (
            f"torch's is {torch}, paddle's {paddle}: smooth_l1_loss(is_huber=False, delta=beta) in paddle is torch's "
            "smooth_l1_loss(beta=beta), is_huber=True (the default) is torch's huber_loss(delta=delta)"
        )
    if torch.startswith("beta"):
        return f"is_huber=False, delta={torch.rpartition(' ')[2]} in paddle.nn.functional.smooth_l1_loss"
    return f"in paddle's loss: {torch or 'the plain formula'}, instead of {paddle or 'the plain formula'}"

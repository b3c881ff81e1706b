"""How the paddle sides of the suite turn their options into optimizer, schedule, clipping and accumulation."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

from stepalign.workers import Training


def settings(case):
    """Return the case's options as the paddle side sees them."""
    return {**case.options, **case.options.get("paddle", {})}


def training(o, model, loss):
    """Return the Training of ``model`` under ``loss`` with all that the options ask for."""
    for name, parameter in model.named_parameters():
        if starts(name, o.get("frozen", [])):
            parameter.stop_gradient = True
    scheduler = make_scheduler(o)
    optimizer = make_optimizer(o, model, o["lr"] if scheduler is None else scheduler)
    return Training(
        model=model,
        loss=accumulated(o, loss),
        optimizer=optimizer,
        scheduler=scheduler,
        scheduler_metric="loss" if o.get("schedule") == "plateau" else None,
        after_backward=make_after_backward(o),
    )


def starts(name, prefixes):
    """Tell whether a parameter's name begins with one of the prefixes."""
    return any(name.startswith(prefix) for prefix in prefixes)


def accumulated(o, loss):
    """Return ``loss`` taken over micro-batches, as gradient accumulation does."""
    parts = o.get("accumulation", 1)
    if parts == 1:
        return loss

    def total(model, batch):
        size = next(iter(batch.values())).shape[0] // parts
        chunks = [{k: v[i * size : (i + 1) * size] for k, v in batch.items()} for i in range(parts)]
        losses = [loss(model, chunk) for chunk in chunks]
        return sum(losses[1:], losses[0]) / (parts if o.get("accumulation_mean", True) else 1)

    return total


def parameter_groups(o, model):
    """Return the optimizer's groups: head and body with their own rates; decay is filtered here unless by AdamW."""
    by_name = o.get("optimizer", "adamw") == "adamw"
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient or starts(name, o.get("left_out", [])):
            continue
        is_head = "head_lr_factor" in o and starts(name, o.get("head", ["head"]))
        no_decay = not by_name and o.get("decay_exclude", "none") == "bias_and_norm" and parameter.ndim < 2
        groups.setdefault((is_head, no_decay), []).append(parameter)
    if list(groups) == [(False, False)]:
        return groups[False, False]
    result = []
    for (is_head, no_decay), parameters in groups.items():
        group = {"params": parameters}
        if not by_name:
            group["weight_decay"] = 0.0 if no_decay else o.get("weight_decay", 0.0)
        if is_head:
            factor = o["head_lr_factor"]
            group["learning_rate"] = {"factor": factor, "rate": o["lr"] * factor}[o.get("head_lr_meaning", "factor")]
        result.append(group)
    return result


def decay_filter(o, model):
    """Return AdamW's ``apply_decay_param_fun`` for the exclusions asked for, or None."""
    if o.get("decay_exclude", "none") == "none":
        return None
    if o.get("decay_filter", "internal_names") == "structured_names":
        return lambda name: "bias" not in name and "norm" not in name
    decayed = {parameter.name for parameter in model.parameters() if parameter.ndim >= 2}
    return lambda name: name in decayed


def make_optimizer(o, model, lr):
    """Return the optimizer that ``optimizer`` names; ``lr`` is a rate or a scheduler."""
    kind = o.get("optimizer", "adamw")
    beta1, beta2 = o.get("betas", (0.9, 0.999))
    eps, decay = o.get("eps", 1e-8), o.get("weight_decay", 0.0)
    common = {"learning_rate": lr, "parameters": parameter_groups(o, model), "grad_clip": optimizer_clip(o)}
    if kind == "adamw":
        return paddle.optimizer.AdamW(
            beta1=beta1,
            beta2=beta2,
            epsilon=eps,
            weight_decay=decay,
            amsgrad=o.get("amsgrad", False),
            apply_decay_param_fun=decay_filter(o, model),
            **common,
        )
    common["weight_decay"] = decay or None
    if kind == "sgd":
        return paddle.optimizer.SGD(**common)
    if kind == "momentum":
        return paddle.optimizer.Momentum(
            momentum=o.get("momentum", 0.9), use_nesterov=o.get("nesterov", False), **common
        )
    if kind == "adam":
        return paddle.optimizer.Adam(beta1=beta1, beta2=beta2, epsilon=eps, amsgrad=o.get("amsgrad", False), **common)
    if kind == "adagrad":
        return paddle.optimizer.Adagrad(epsilon=o.get("eps", 1e-10), **common)
    if kind == "adadelta":
        return paddle.optimizer.Adadelta(rho=o.get("rho", 0.9), epsilon=o.get("eps", 1e-6), **common)
    if kind == "rmsprop":
        return paddle.optimizer.RMSProp(rho=o.get("rho", 0.99), epsilon=eps, **common)
    if kind == "nadam":
        return paddle.optimizer.NAdam(
            beta1=beta1, beta2=beta2, epsilon=eps, momentum_decay=o.get("momentum_decay", 0.004), **common
        )
    if kind == "adamax":
        return paddle.optimizer.Adamax(beta1=beta1, beta2=beta2, epsilon=eps, **common)
    raise ValueError(f"unknown optimizer {kind!r}")


def make_scheduler(o):
    """Return the scheduler that ``schedule`` names, or None."""
    kind, base = o.get("schedule", "none"), o["lr"]
    schedulers = paddle.optimizer.lr
    if kind == "none":
        return None
    if kind == "step":
        return schedulers.StepDecay(base, o["step_size"], gamma=o["gamma"])
    if kind == "multistep":
        return schedulers.MultiStepDecay(base, o["milestones"], gamma=o["gamma"])
    if kind == "exponential":
        return schedulers.ExponentialDecay(base, o["gamma"])
    if kind == "cosine":
        return schedulers.CosineAnnealingDecay(base, o["total"], eta_min=o.get("eta_min", 0.0))
    if kind == "polynomial":
        return schedulers.PolynomialDecay(base, o["total"], end_lr=o.get("end_lr", 0.0), power=o.get("power", 1.0))
    if kind == "one_cycle":
        start = base / o.get("div_factor", 25.0)
        return schedulers.OneCycleLR(
            max_learning_rate=base,
            total_steps=o["total"],
            divide_factor=o.get("div_factor", 25.0),
            end_learning_rate=o.get("end_lr", start / o.get("final_div_factor", 1e4)),
        )
    if kind == "plateau":
        return schedulers.ReduceOnPlateau(
            base, factor=o["gamma"], patience=o["patience"], threshold=o.get("threshold", 1e-4)
        )
    if kind == "warmup_cosine" and o.get("schedule_form", "lambda") == "composed":
        cosine = schedulers.CosineAnnealingDecay(base, o["total"] - o["warmup"])
        return schedulers.LinearWarmup(cosine, o["warmup"], 0.0, base)
    return schedulers.LambdaDecay(base, rate_factor(o))


def rate_factor(o):
    """Return the factor of the base rate as a function of the step."""
    kind, total, warmup = o["schedule"], o.get("total", 10), o.get("warmup", 0)

    def factor(step):
        if kind == "epochwise_step":
            return o["gamma"] ** (step // o["steps_per_epoch"] // o["step_size"])
        if kind == "noam":
            return (step + 1) ** -0.5 if step + 1 > warmup else (step + 1) * warmup**-1.5
        if step < warmup:
            return (step + o.get("warmup_offset", 0)) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        if kind == "warmup_cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 2.0 * o.get("num_cycles", 0.5) * progress)))
        if kind == "warmup_linear":
            return max(o.get("floor", 0.0), 1.0 - progress)
        raise ValueError(f"unknown schedule {kind!r}")

    return factor


def optimizer_clip(o):
    """Return the clipping that the optimizer does by itself, or None."""
    if o.get("clip_place", "after_backward") != "optimizer":
        return None
    kinds = {
        "none": lambda: None,
        "global_norm": lambda: paddle.nn.ClipGradByGlobalNorm(o["clip_norm"]),
        "per_parameter": lambda: paddle.nn.ClipGradByNorm(o["clip_norm"]),
        "value": lambda: paddle.nn.ClipGradByValue(o["clip_norm"]),
    }
    return kinds[o.get("clip", "none")]()


def make_after_backward(o):
    """Return what happens between backward and the update, or None."""
    clip, scale = o.get("clip", "none"), o.get("gradient_scale", 1.0)
    if o.get("clip_place", "after_backward") == "optimizer":
        clip = "none"
    if clip == "none" and scale == 1.0:
        return None

    def after_backward(model):
        chosen = [p for n, p in model.named_parameters() if starts(n, o.get("clip_scope", [""])) and p.grad is not None]
        if scale != 1.0:
            for parameter in chosen:
                parameter.grad.scale_(scale)
        if clip == "global_norm":
            paddle.nn.utils.clip_grad_norm_(chosen, o["clip_norm"])
        elif clip == "per_parameter":
            for parameter in chosen:
                paddle.nn.utils.clip_grad_norm_([parameter], o["clip_norm"])
        elif clip == "value":
            paddle.nn.utils.clip_grad_value_(chosen, o["clip_norm"])

    return after_backward


def activation(o, x):
    """Return ``x`` through the nonlinearity that ``activation`` names."""
    kind = o.get("activation", "gelu")
    if kind == "gelu":
        return F.gelu(x)
    if kind == "gelu_tanh":
        return F.gelu(x, approximate=True)
    if kind == "relu":
        return F.relu(x)
    if kind == "silu":
        return F.silu(x)
    if kind == "leaky_relu":
        return F.leaky_relu(x, o.get("negative_slope", 0.01))
    raise ValueError(f"unknown activation {kind!r}")


def rounded(o, x):
    """Return ``x`` after a detour through the type that ``detour`` names."""
    kind = o.get("detour", "none")
    return x if kind == "none" else x.astype(kind).astype(x.dtype)


def attention(o, q, k, v, mask):
    """Return softmax(q k^T scale + mask) v for [batch, heads, length, width] tensors."""
    scales = {"head": q.shape[-1] ** -0.5, "model": (q.shape[-1] * q.shape[1]) ** -0.5, "none": 1.0}
    scores = paddle.matmul(q, k, transpose_y=True) * scales[o.get("attention_scale", "head")]
    if mask is not None:
        scores = scores + mask
    return paddle.matmul(F.softmax(scores, axis=o.get("softmax_axis", -1)), v)

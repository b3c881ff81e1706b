"""How the torch sides of the suite turn their options into optimizer, schedule, clipping and accumulation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from stepalign.workers import Training


def settings(case):
    """Return the case's options as the torch side sees them."""
    return {**case.options, **case.options.get("torch", {})}


def training(o, model, loss):
    """Return the Training of ``model`` under ``loss`` with all that the options ask for."""
    for name, parameter in model.named_parameters():
        if starts(name, o.get("frozen", [])):
            parameter.requires_grad_(False)
    optimizer = make_optimizer(o, model)
    scheduler = make_scheduler(o, optimizer)
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
        return sum(losses) / (parts if o.get("accumulation_mean", True) else 1)

    return total


def parameter_groups(o, model):
    """Return the optimizer's groups: head and body with their own rates, with and without decay."""
    decay = o.get("weight_decay", 0.0)
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or starts(name, o.get("left_out", [])):
            continue
        is_head = "head_lr_factor" in o and starts(name, o.get("head", ["head"]))
        no_decay = o.get("decay_exclude", "none") == "bias_and_norm" and parameter.ndim < 2
        groups.setdefault((is_head, no_decay), []).append(parameter)
    result = []
    for (is_head, no_decay), parameters in groups.items():
        group = {"params": parameters, "weight_decay": 0.0 if no_decay else decay}
        if is_head:
            group["lr"] = o["lr"] * o["head_lr_factor"]
        result.append(group)
    return result


def make_optimizer(o, model):
    """Return the optimizer that ``optimizer`` names."""
    kind, lr = o.get("optimizer", "adamw"), o["lr"]
    groups = parameter_groups(o, model)
    betas, eps = tuple(o.get("betas", (0.9, 0.999))), o.get("eps", 1e-8)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr)
    if kind == "momentum":
        return torch.optim.SGD(
            groups,
            lr=lr,
            momentum=o.get("momentum", 0.9),
            nesterov=o.get("nesterov", False),
            dampening=o.get("dampening", 0.0),
        )
    if kind == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=betas, eps=eps, amsgrad=o.get("amsgrad", False))
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, amsgrad=o.get("amsgrad", False))
    if kind == "adagrad":
        return torch.optim.Adagrad(groups, lr=lr, eps=o.get("eps", 1e-10))
    if kind == "adadelta":
        return torch.optim.Adadelta(groups, lr=lr, rho=o.get("rho", 0.9), eps=o.get("eps", 1e-6))
    if kind == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, alpha=o.get("rho", 0.99), eps=eps)
    if kind == "nadam":
        return torch.optim.NAdam(groups, lr=lr, betas=betas, eps=eps, momentum_decay=o.get("momentum_decay", 0.004))
    if kind == "adamax":
        return torch.optim.Adamax(groups, lr=lr, betas=betas, eps=eps)
    raise ValueError(f"unknown optimizer {kind!r}")


def make_scheduler(o, optimizer):
    """Return the scheduler that ``schedule`` names, or None."""
    kind = o.get("schedule", "none")
    schedulers = torch.optim.lr_scheduler
    if kind == "none":
        return None
    if kind == "step":
        return schedulers.StepLR(optimizer, o["step_size"], gamma=o["gamma"])
    if kind == "multistep":
        return schedulers.MultiStepLR(optimizer, o["milestones"], gamma=o["gamma"])
    if kind == "exponential":
        return schedulers.ExponentialLR(optimizer, o["gamma"])
    if kind == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, o["total"], eta_min=o.get("eta_min", 0.0))
    if kind == "polynomial":
        return schedulers.PolynomialLR(optimizer, o["total"], power=o.get("power", 1.0))
    if kind == "one_cycle":
        return schedulers.OneCycleLR(
            optimizer,
            max_lr=o["lr"],
            total_steps=o["total"],
            div_factor=o.get("div_factor", 25.0),
            final_div_factor=o.get("final_div_factor", 1e4),
            cycle_momentum=o.get("cycle_momentum", False),
        )
    if kind == "plateau":
        return schedulers.ReduceLROnPlateau(
            optimizer, factor=o["gamma"], patience=o["patience"], threshold=o.get("threshold", 1e-4)
        )
    return schedulers.LambdaLR(optimizer, rate_factor(o))


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


def make_after_backward(o):
    """Return what happens between backward and the update, or None."""
    clip, scale = o.get("clip", "none"), o.get("gradient_scale", 1.0)
    if clip == "none" and scale == 1.0:
        return None

    def after_backward(model):
        chosen = [p for n, p in model.named_parameters() if starts(n, o.get("clip_scope", [""])) and p.grad is not None]
        if scale != 1.0:
            for parameter in chosen:
                parameter.grad.mul_(scale)
        if clip == "global_norm":
            torch.nn.utils.clip_grad_norm_(chosen, o["clip_norm"])
        elif clip == "per_parameter":
            for parameter in chosen:
                torch.nn.utils.clip_grad_norm_([parameter], o["clip_norm"])
        elif clip == "value":
            torch.nn.utils.clip_grad_value_(chosen, o["clip_norm"])

    return after_backward


def activation(o, x):
    """Return ``x`` through the nonlinearity that ``activation`` names."""
    kind = o.get("activation", "gelu")
    if kind == "gelu":
        return F.gelu(x)
    if kind == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
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
    return x if kind == "none" else x.to(getattr(torch, kind)).to(x.dtype)


def attention(o, q, k, v, mask):
    """Return softmax(q k^T scale + mask) v for [batch, heads, length, width] tensors."""
    scales = {"head": q.shape[-1] ** -0.5, "model": (q.shape[-1] * q.shape[1]) ** -0.5, "none": 1.0}
    scores = q @ k.transpose(-1, -2) * scales[o.get("attention_scale", "head")]
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=o.get("softmax_axis", -1)) @ v

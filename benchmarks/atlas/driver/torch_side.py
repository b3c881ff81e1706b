"""Constructs a torch optimizer with schedule and clip from plain values."""

import warnings

import torch
from common import clip_of, construct, find, grouped, without_call

warnings.filterwarnings("ignore")


class SparseGradients(torch.optim.SparseAdam):
    """Takes dense gradients and makes them sparse by rows."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.to_sparse(1)
        return super().step()


class Quadratic(torch.optim.LBFGS):
    """Minimises a quadratic whose minimum is the parameter plus what came as its gradient."""

    def step(self, closure=None):
        parameters = [each for each in self.param_groups[0]["params"] if each.grad is not None]
        aims = [each.detach() + each.grad for each in parameters]
        curvatures = [1.0 + torch.arange(each.numel(), dtype=each.dtype).reshape(each.shape) for each in parameters]

        def evaluate():
            self.zero_grad()
            loss = sum((0.5 * c * (p - aim) ** 2).sum() for c, p, aim in zip(curvatures, parameters, aims))
            loss.backward()
            return loss

        return super().step(evaluate)


def optimizer(case, parameters):
    setup = case.options["setup"]
    target, arguments = without_call(setup["optimizer"])
    groups = [(prefix, construct(values, lambda _: {})) for prefix, values in setup["groups"]]
    kind = {"torch.optim.LBFGS": Quadratic}.get(target) or (SparseGradients if setup["sparse"] else find(target))
    made = kind(grouped(groups, parameters), **construct(arguments, lambda _: {}))
    schedule = construct(setup["schedule"], lambda _: {"optimizer": made})
    return made, schedule, clip_of(setup["clip"], parameters)

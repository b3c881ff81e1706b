"""Constructs a paddle optimizer with schedule and clip from plain values."""

import paddle
from common import clip_of, construct, find, grouped, without_call
from paddle.base import core


class SparseGradients(paddle.optimizer.Adam):
    """Takes dense gradients and makes them sparse by rows, as Embedding(sparse=True) does."""

    def step(self):
        for parameter in self._parameter_list:
            if parameter.grad is not None:
                dense = parameter.grad.numpy()
                rows = [row for row in range(len(dense)) if dense[row].any()]
                parameter.clear_gradient(False)
                if rows:
                    picked = paddle.nn.functional.embedding(paddle.to_tensor(rows), parameter, sparse=True)
                    (picked * paddle.to_tensor(dense[rows])).sum().backward()
        super().step()
        for parameter in self._parameter_list:
            parameter.clear_gradient(False)
            parameter._set_grad_type(core.VarDesc.VarType.DENSE_TENSOR)  # the next gradient comes dense again


class Quadratic(paddle.optimizer.LBFGS):
    """Minimises a quadratic whose minimum is the parameter plus what came as its gradient."""

    def step(self, closure=None):
        parameters = [each for each in self._parameter_list if each.grad is not None]
        aims = [paddle.to_tensor(each.numpy() + each.grad.numpy()) for each in parameters]
        curvatures = [1.0 + paddle.arange(each.size, dtype=each.dtype).reshape(each.shape) for each in parameters]

        def evaluate():
            for each in parameters:
                each.clear_gradient(False)
            loss = sum((0.5 * c * (p - aim) ** 2).sum() for c, p, aim in zip(curvatures, parameters, aims))
            loss.backward()
            return loss

        return super().step(evaluate)


def optimizer(case, parameters):
    setup = case.options["setup"]
    target, arguments = without_call(setup["optimizer"])
    groups = [(prefix, construct(values, lambda _: {})) for prefix, values in setup["groups"]]
    kind = {"paddle.optimizer.LBFGS": Quadratic}.get(target) or (SparseGradients if setup["sparse"] else find(target))
    values = construct(arguments, lambda _: {})
    made = kind(parameters=grouped(groups, parameters), **values)
    rate = values.get("learning_rate")
    return made, rate if isinstance(rate, paddle.optimizer.lr.LRScheduler) else None, clip_of(setup["clip"], parameters)

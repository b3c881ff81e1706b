"""No batches: the optimizers are driven by gradients."""


def batches(case):
    return iter(())

"""``stepalign optimizer``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import add_assignments, add_bind, add_case, add_output


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_case(parser)
    group = parser.add_argument_group("in place of the case's own settings")
    group.add_argument("--steps", type=int, metavar="N", help="updates under each regime of gradients")
    group.add_argument("--dtype", choices=("float32", "float64"), help="the dtype of parameters and arithmetic")
    add_assignments(group)
    add_output(parser)
    add_bind(parser)


COMMAND = Command(
    "optimizer",
    "compare the optimizers alone: given gradients, no model",
    "running:optimizer",
    _add_arguments,
    group="compare",
    order=35,
    description="""\
Drive both sides' optimizers, with schedule, groups, decay and clipping, from the same
parameters by the same gradients: normal, small, tiny and mixed ones, zeros, and steps
on which a parameter has none. Each script's optimizer(case, parameters) is called; where
neither defines it, build(case)'s optimizer is driven over its own parameters.
""",
    examples=(
        ("all regimes, as many steps as [optimizer] steps says", "stepalign optimizer my_case"),
        ("rounding shrinks, a wrong formula does not", "stepalign optimizer my_case --dtype float64"),
        ("one regime", "stepalign optimizer my_case --set 'optimizer.regimes=[\"tiny\"]'"),
    ),
)

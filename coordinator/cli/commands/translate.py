"""``stepalign translate``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="EXPRESSION|CASE", help="what constructs the optimizer over params, or a case's folder"
    )
    parser.add_argument("--schedule", default="", metavar="EXPR", help="what constructs torch's schedule over optimizer")
    parser.add_argument("--clip", default="", metavar="EXPR", help="the call that clips between backward and the update")
    parser.add_argument(
        "--from", dest="side", choices=("torch", "paddle"), help="whose training it is (default: as the expression begins)"
    )
    parser.add_argument("--json", action="store_true", help="print code, verdicts and differences as JSON")


COMMAND = Command(
    "translate",
    "write an optimizer and its schedule in the other framework's code",
    "translating:translate",
    _add_arguments,
    group="prepare",
    order=40,
    description="""\
Construct an optimizer, with its schedule, parameter groups and clipping, in a
worker of its framework, and print the code of the other framework that does the
same, with every default spelled out. Only mappings that were measured are used;
how far they agree stands above the code.
""",
    examples=(
        ("an optimizer", 'stepalign translate "torch.optim.AdamW(params, lr=3e-5, weight_decay=0.01)"'),
        (
            "with a schedule and clipping",
            'stepalign translate "torch.optim.SGD(params, lr=0.1, momentum=0.9)" '
            '--schedule "torch.optim.lr_scheduler.StepLR(optimizer, 30)" '
            '--clip "torch.nn.utils.clip_grad_norm_(params, 1.0)"',
        ),
        ("the other way round", 'stepalign translate "paddle.optimizer.Adam(parameters=params)"'),
        ("what a case's torch script builds", "stepalign translate my_case"),
    ),
    exit_codes="""\
exit codes:
  0  translated
  2  no counterpart that was measured, or the expression is wrong
  3  an environment or the worker failed
""",
)

"""``stepalign completion``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell to complete in")


COMMAND = Command(
    "completion",
    "print what makes a shell complete commands, options and names",
    "completing:completion",
    _add_arguments,
    order=40,
    description="""\
Print a script for bash, zsh or fish. The shell that has read it completes stepalign's commands and options, the
names of environments, and the keys of --set.
""",
    examples=(
        ("bash: now, and in every new shell", 'eval "$(stepalign completion bash)"   # also into ~/.bashrc'),
        ("zsh: into ~/.zshrc, after compinit", 'eval "$(stepalign completion zsh)"'),
        ("fish", "stepalign completion fish > ~/.config/fish/completions/stepalign.fish"),
    ),
)

"""``stepalign doctor``."""

from __future__ import annotations

from stepalign.coordinator.cli.command import Command

COMMAND = Command(
    "doctor",
    "say what is installed, what is missing, and what mends it",
    "environment:doctor",
    order=30,
    description="""\
Say which interpreters, frameworks and GPUs there are, what is missing, and the
command that mends it.
""",
    examples=(("look", "stepalign doctor"),),
    exit_codes="exit codes: 0 all is there, 3 something is missing",
)

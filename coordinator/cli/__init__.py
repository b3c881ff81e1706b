"""The command line: parses, calls one command, ends with the contract's exit code. Heavy imports wait until a command
needs them.
"""

from stepalign.coordinator.cli.main import main

__all__ = ["main"]

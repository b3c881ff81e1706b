"""The commands, one module each: drop a module with a ``COMMAND`` here and the command is there.

See `coordinator/cli/command.py` for what a command states.
"""

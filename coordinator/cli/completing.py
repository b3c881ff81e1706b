"""``stepalign completion``, and the answers that shells ask for while a line is typed.

A shell runs ``stepalign`` with ``_ARGCOMPLETE`` set and the line so far; argcomplete answers from the parser, and from
the functions below where names have to be looked up.
"""

from __future__ import annotations

import argparse

from stepalign.coordinator.environments import managed


def completion(options: argparse.Namespace) -> int:
    """Print the script that a shell reads."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["stepalign"], shell=options.shell))
    return 0


def answer(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how the line so far may go on, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser)


def environment_names(prefix: str) -> list[str]:
    """Return the names of the environments that there are."""
    return [item.name for item in managed.list_environments()]


def case_keys(prefix: str) -> list[str]:
    """Return the keys of case.toml as ``--set`` takes them, up to the ``=``."""
    import dataclasses
    import typing

    from stepalign.coordinator.cases.case import CaseFile

    keys = []
    for field, kind in typing.get_type_hints(CaseFile).items():
        if dataclasses.is_dataclass(kind):
            keys += [f"{field}.{inner.name}=" for inner in dataclasses.fields(kind)]
        elif typing.get_origin(kind) is not dict:
            keys.append(f"{field}=")
    return keys

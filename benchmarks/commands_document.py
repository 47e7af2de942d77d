"""Writes docs/generated/commands.md: every command and its options, from the command itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from bigtcp_bench.commands.main import command_parser

HEAD = (
    "# Every command\n\nWritten by `python -m benchmarks.commands_document > docs/generated/commands.md`, as "
    "`--help` prints it.\n"
)


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser of each command that does something, in the order of ``--help``."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for found in action.choices.values():
            yield from commands(found)


def document() -> str:
    """Return the document, whatever the width of the terminal."""
    with mock.patch.dict(os.environ, {"COLUMNS": "110"}):
        texts = {one.prog: one.format_help().rstrip() for one in commands(command_parser())}
    return "\n".join([HEAD, *(f"## {name}\n\n```text\n{text}\n```\n" for name, text in texts.items())])


if __name__ == "__main__":
    print(document(), end="")

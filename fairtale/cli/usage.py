"""Mistakes on the command line in one line, for the verbs that shell scripts call."""

import argparse
import functools
from typing import NoReturn


def short_errors(parser: argparse.ArgumentParser) -> None:
    """Let a mistake end in one line that begins with ``error:``, without the usage before it.

    Such a verb stands at the end of a script, and the script's other errors look like that.
    """
    parser.error = functools.partial(_exit, parser)  # type: ignore[method-assign]


def _exit(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(2, f"error: {message}; see --help\n")

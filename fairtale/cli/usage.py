"""Report errors of a command line in one line."""

import argparse
import functools
from typing import NoReturn


def short_errors(parser: argparse.ArgumentParser) -> None:
    """Make a parser report an error as one line ``error: ...``, without printing the usage.

    Scripts end by calling a verb, and their own errors have the same form.
    """
    parser.error = functools.partial(_exit, parser)  # type: ignore[method-assign]


def _exit(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(2, f"error: {message}; see --help\n")

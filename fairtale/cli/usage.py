"""Report command-line errors in one line, for verbs that are called by shell scripts."""

import argparse
import functools
from typing import NoReturn


def short_errors(parser: argparse.ArgumentParser) -> None:
    """Make a parser report an error as one line ``error: ...``, without printing the usage.

    A script ends by calling such a verb, and the script's own errors have the same form.
    """
    parser.error = functools.partial(_exit, parser)  # type: ignore[method-assign]


def _exit(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(2, f"error: {message}; see --help\n")

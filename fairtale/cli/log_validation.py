"""Print the results of validations, from a log of fairseq-validate or fairseq-train.

The verb prints the lines about the data and the lines with the losses of each subset. All other
lines of the log are left out.
"""

import argparse
import contextlib
import re
import sys

from ..data.training_log import parse_line
from ..errors import UserError

# Log lines of fairtale.data: ... | INFO | fairtale.data.story.dataset | valid: ...
_ABOUT_DATA = re.compile(r"\| INFO \| fairtale\.data\.\S+ \|")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "log",
        metavar="LOG",
        nargs="?",
        default="-",
        help="log file; - for standard input (default: -)",
    )


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    found = False
    with contextlib.ExitStack() as stack:
        stream = sys.stdin
        if args.log != "-":
            stream = stack.enter_context(open(args.log, encoding="utf-8", errors="replace"))
        for line in stream:
            entry = parse_line(line)
            is_validation = entry is not None and entry.kind == "valid"
            if is_validation or _ABOUT_DATA.search(line):
                print(line.rstrip("\n"), flush=True)
            found = found or is_validation
    if not found:
        raise UserError(f"{args.log}: no validation in this log")

"""Print what a validation has found, out of a log of fairseq-validate or fairseq-train.

These are the lines about the data and those with the losses of each subset; everything else
in the log is left out.
"""

import argparse
import contextlib
import re
import sys

from ..data.training_log import parse_line
from ..errors import UserError

# What the library's data rooms report, as: ... | INFO | fairtale.data.story.dataset | valid: ...
_ABOUT_DATA = re.compile(r"\| INFO \| fairtale\.data\.\S+ \|")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log", metavar="LOG", nargs="?", default="-", help="(default: -, standard input)"
    )


def run(args: argparse.Namespace) -> None:
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

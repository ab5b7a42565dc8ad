"""Print the texts that a model has written, out of a log of fairseq-generate or -interactive.

LOG holds what the command has printed on standard output. One text a line, in the order of
the inputs (of several hypotheses the best first); the lines D- are read.
"""

import argparse
import collections
import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from ..data.output_log import Output, read_output
from ..errors import UserError
from .argument_types import positive_int
from .files import whole_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG")
    parser.add_argument("--output", metavar="FILE", help="(default: standard output)")
    parser.add_argument(
        "--keep-blank",
        action="store_true",
        help="where the source was blank write a blank line, whatever the model has invented",
    )
    parser.add_argument(
        "--lines-of",
        metavar="FILE",
        help="the inputs; it is an error if one of its lines has no text, or several",
    )
    parser.add_argument(
        "--continued",
        action="store_true",
        help="put the source before each hypothesis, both as pieces (S- and H- lines)",
    )
    parser.add_argument(
        "--inputs-per-prompt",
        type=positive_int,
        default=1,
        metavar="N",
        help="each prompt was given N times, one after the other (default: %(default)s)",
    )
    parser.add_argument(
        "--quantity", type=positive_int, metavar="N", help="texts of each prompt at most"
    )


def run(args: argparse.Namespace) -> None:
    outputs = read_output(args.log, "H" if args.continued else "D")
    if args.lines_of:
        check_complete(outputs, args.lines_of)
    if args.quantity:
        outputs = list(first_of_each(outputs, args.inputs_per_prompt, args.quantity))
    stream = whole_file(args.output, "wb") if args.output else _standard_output()
    with stream as file:
        for output in outputs:
            text = b"" if args.keep_blank and output.source == b"" else output.text
            if args.continued:
                text = b"%b %b" % (output.source or b"", text)
            file.write(text + b"\n")


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    yield sys.stdout.buffer
    sys.stdout.flush()


def check_complete(outputs: Sequence[Output], path: str) -> None:
    """Raise UserError where not each line of a file has exactly one text.

    Only a line feed ends a line; the last line may lack it.
    """
    with open(path, "rb") as lines:
        wanted = sum(1 for _ in lines)
    numbers = {output.number for output in outputs}
    if len(outputs) > wanted or len(numbers) < len(outputs):
        raise UserError(f"{len(outputs)} translations of {wanted} lines; leave --nbest out")
    for number in range(wanted):
        if number not in numbers:
            raise UserError(
                f"{len(outputs)} translations of {wanted} lines: line {number + 1} has none; is it "
                "too long for the model? divide it"
            )


def first_of_each(outputs: Iterable[Output], num_inputs: int, quantity: int) -> Iterator[Output]:
    """Yield the first ``quantity`` outputs of each group of ``num_inputs`` inputs."""
    counts: collections.Counter[int] = collections.Counter()
    for output in outputs:
        prompt = output.number // num_inputs
        counts[prompt] += 1
        if counts[prompt] <= quantity:
            yield output

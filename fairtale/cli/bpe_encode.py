"""Encode text as byte-level BPE pieces, or decode pieces with --decode.

Each line of a text file becomes one line of pieces, and so does each record of a file of JSON lines
(.jsonl), whose field "text" may contain line breaks; the output of train.jsonl is train.txt. Any
text in UTF-8 can be encoded, and --decode returns it byte for byte. A decoded text with line breaks
needs --json-lines or --join-lines. The work is distributed over several processes. The number of
lines is checked before the output file appears.

With --dialog, a line holds the turns of a dialog separated by tabs, with the response last. It
becomes `context <CTX> query <SEP> response`, and each turn is encoded by itself. Lines without a
response are left out, counted and reported.
"""

import argparse
import functools
import os

from ..data.corpus.byte_level import ByteLevelBPE
from ..data.corpus.byte_level_files import load_byte_level
from ..errors import UserError
from .encode_files import Converter, add_shared_arguments, convert_files, source_target_pairs
from .spm_dialog import DialogEncoder, Encoded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "text", nargs="+", help="UTF-8 text files, JSON lines (.jsonl), or - for standard input"
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="FILE",
        help="a tokenizer.json, or a folder with this file or with vocab.json and merges.txt",
    )
    add_shared_arguments(parser)
    parser.add_argument(
        "--json-lines",
        action="store_true",
        help='with --decode: write JSON lines with a field "text"; the output of train.txt is '
        "train.jsonl",
    )
    parser.add_argument(
        "--join-lines",
        action="store_true",
        help="with --decode: write a space for each line break of a text",
    )


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    for option in ("json_lines", "join_lines"):
        if getattr(args, option) and not args.decode:
            raise UserError(
                f"--{option.replace('_', '-')}: only for --decode; pieces are written as lines"
            )
    if args.json_lines and args.join_lines:
        raise UserError("--json-lines and --join-lines: give one of them")
    pairs = source_target_pairs(args)
    load_byte_level(args.tokenizer)  # report a bad tokenizer here once, and not in every worker
    max_unknown = args.max_unknown if args.dialog else None
    make = functools.partial(
        _make_converter, args.tokenizer, args.decode, args.join_lines, max_unknown
    )
    convert_files(args, pairs, make, as_json=args.json_lines)


def _make_converter(path: str, decode: bool, join: bool, max_unknown: int | None) -> Converter:
    """Return the converter of lines; ``max_unknown`` is None unless the lines are dialogs."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are already several processes
    bpe = load_byte_level(path)
    if max_unknown is not None:
        return DialogEncoder(bpe.encode_many, max_unknown)
    return functools.partial(_decode, bpe, join) if decode else functools.partial(_encode, bpe)


def _encode(bpe: ByteLevelBPE, lines: list[str]) -> Encoded:
    pieces = bpe.encode_many(lines)
    return Encoded([" ".join(p) for p in pieces], sum(map(len, pieces)), 0)


def _decode(bpe: ByteLevelBPE, join: bool, lines: list[str]) -> Encoded:
    """Decode lines of pieces; words that are not pieces of the tokenizer stay."""
    texts = [bpe.decode(line) for line in lines]
    if join:
        texts = [" ".join(text.split("\n")) for text in texts]
    return Encoded(texts, sum(len(line.split()) for line in lines), 0)

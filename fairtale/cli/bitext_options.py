"""Options of ``fairtale bitext``."""

import argparse

from ..data.parallel.cleaning import MARKUP_RULES
from ..data.parallel.files import NAMES
from ..data.parallel.text import TOKENIZERS
from .argument_types import fields, positive_int
from .corpus_output import add_loss_argument
from .devices import usable_cpus

DEFAULT_VALID_SIZE = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="PREFIX",
        help="training corpus; may be repeated",
    )
    parser.add_argument("--valid", metavar="PREFIX", help="validation set")
    parser.add_argument(
        "--valid-size",
        type=positive_int,
        metavar="N",
        help="without --valid, hold out N training pairs whose sides occur only once "
        f"(default: {DEFAULT_VALID_SIZE})",
    )
    parser.add_argument(
        "--test", action="append", default=[], metavar="PREFIX", help="test set; may be repeated"
    )
    parser.add_argument(
        "-s", "--source-lang", default="en", help="source language (default: %(default)s)"
    )
    parser.add_argument(
        "-t", "--target-lang", default="ru", help="target language (default: %(default)s)"
    )
    parser.add_argument(
        "--format", choices=NAMES, help="format of all files (default: recognised for each)"
    )
    parser.add_argument(
        "--fields",
        type=fields,
        default=(),
        metavar="SOURCE,TARGET",
        help="of one file with both languages: names of the fields, or numbers of the columns, as "
        "2,3 (default: the codes of the languages, or source and target; or the only two columns)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    _add_cleaning(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def _add_cleaning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-words",
        type=positive_int,
        default=150,
        help="maximum number of tokens of a side (default: %(default)s)",
    )
    parser.add_argument(
        "--max-ratio",
        type=float,
        default=3.0,
        help="maximum ratio of the lengths of the two sides, in tokens; in scripts without spaces, "
        "words are estimated from the characters (default: %(default)s)",
    )
    add_loss_argument(parser)
    parser.add_argument(
        "--tokenizer",
        choices=TOKENIZERS,
        help="tokenizer of both languages (default: moses; none if one of them has no spaces "
        "between words, as Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan)",
    )
    parser.add_argument(
        "--markup",
        choices=MARKUP_RULES,
        default="entities",
        help="entities: replace entities such as &quot; by their characters; clean: remove tags "
        "such as <i> too; keep: neither (default: %(default)s)",
    )
    parser.add_argument(
        "--no-normalize", action="store_true", help="do not unify quotes, dashes and spaces"
    )
    parser.add_argument(
        "--escape",
        action="store_true",
        help="escape special characters as XML entities, as Moses does by default; SentencePiece "
        "needs about four pieces for an entity",
    )
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="keep repeated training pairs"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="random seed for choosing --valid-size (default: 1)"
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=usable_cpus(),
        help="number of processes (default: all CPUs)",
    )

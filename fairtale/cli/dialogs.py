"""Clean dialog corpora and split them into train.tsv, valid.tsv and test.tsv.

The sources are files or folders, plain or gzip, whose formats are detected: Amazon's questions
and answers (one Python dict a line; nothing is executed), PolyAI's conversational-datasets (JSON
lines or TFRecord), JSON lines with "turns" or with "q" and "a", CSV with the columns Q and A, turns
separated by tabs, and subtitles with one turn a line. Each output line holds one response after the
turns that precede it, separated by tabs. report.json counts what was left out.

All dialogs of a document, conversation, product or question go to the same subset, which is
chosen by a hash of the seed and that group.
"""

import argparse
from collections.abc import Callable, Iterator

from ..data.corpus.split import Splitter
from ..data.dialog.cleaning import DEFAULT_MAX_CHARS, DEFAULT_MAX_CONTEXT_TURNS, Cleaning
from ..data.dialog.formats import FORMATS, find_sources, read_dialogs, subset_by_name
from ..data.dialog.records import DialogReport
from ..errors import UserError
from .argument_types import positive_int
from .corpus_output import CorpusOutput, add_source_arguments, add_split_arguments, write_corpus

# Options whose values are written to report.json.
_SETTINGS = (
    *("valid", "test", "seed", "split_by_name", "format", "max_context_turns", "dedupe"),
    *("keep_asides", "keep_punctuation", "min_chars", "max_chars", "allow_equal"),
)


def _whole_number(text: str) -> int:
    """Parse a whole number of at least 0."""
    return 0 if text == "0" else positive_int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser, FORMATS)
    parser.add_argument(
        "--max-context-turns",
        type=_whole_number,
        default=DEFAULT_MAX_CONTEXT_TURNS,
        metavar="N",
        help="maximum number of turns before the query (default: %(default)s)",
    )
    cleaning = parser.add_argument_group("cleaning")
    cleaning.add_argument(
        "--keep-asides", action="store_true", help="do not remove bracketed text such as [music]"
    )
    cleaning.add_argument(
        "--keep-punctuation",
        action="store_true",
        help="do not strip dashes, music notes, commas and quotation marks around a turn "
        "(punctuation that ends a sentence is never stripped)",
    )
    cleaning.add_argument(
        "--min-chars",
        type=positive_int,
        default=1,
        metavar="N",
        help="minimum length of query and response after cleaning (default: %(default)s)",
    )
    cleaning.add_argument(
        "--max-chars",
        type=positive_int,
        default=DEFAULT_MAX_CHARS,
        metavar="N",
        help="maximum length of query and response; a longer turn ends the context "
        "(default: %(default)s)",
    )
    cleaning.add_argument(
        "--allow-equal", action="store_true", help="keep responses that equal their query"
    )
    cleaning.add_argument(
        "--dedupe", action="store_true", help="keep only one of several dialogs with equal turns"
    )
    cleaning.add_argument(
        "--strict",
        action="store_true",
        help="stop with an error at a damaged record (not UTF-8, not JSON, code, a wrong "
        "checksum) instead of leaving it out",
    )
    split = parser.add_argument_group("split")
    add_split_arguments(split, "tsv")
    split.add_argument(
        "--split-by-name",
        action="store_true",
        help="assign files named test* to test, and files named valid* or dev* to valid; a subset "
        "that has such files gets no share of the other files",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    report = DialogReport(strict=args.strict)
    if args.min_chars > args.max_chars:
        raise UserError(
            f"--min-chars {args.min_chars}: must not be above --max-chars {args.max_chars}"
        )
    cleaning = Cleaning(
        remove_asides=not args.keep_asides,
        strip_punctuation=not args.keep_punctuation,
        min_chars=args.min_chars,
        max_chars=args.max_chars,
        allow_equal=args.allow_equal,
        max_context_turns=args.max_context_turns,
    )
    paths = find_sources(args.source, report)
    shares, named = _shares(args, paths)
    splitter = Splitter(args.seed, shares["valid"], shares["test"])

    def read(on_bytes: Callable[[int], object]) -> Iterator[tuple[str, str]]:
        dialogs = read_dialogs(
            paths,
            report,
            cleaning,
            source_format=args.format,
            dedupe=args.dedupe,
            on_bytes=on_bytes,
        )
        for dialog in dialogs:
            subset = dialog.subset
            if subset is None or subset not in named:
                subset = splitter.subset(dialog)
            yield subset, dialog.text

    output = CorpusOutput(args.output, "dialog", "dialogs", "tsv", shares, named, args.quiet)
    settings = {"settings": {name: getattr(args, name) for name in _SETTINGS}}
    write_corpus(output, read, report, paths, {"sources": args.source, **settings})


def _shares(args: argparse.Namespace, paths: list[str]) -> tuple[dict[str, float], set[str]]:
    """Return the shares of valid and test, and the subsets that have files of their own.

    Raises:
        UserError: with ``--split-by-name``, no file is named after valid or test.
    """
    shares = {"valid": args.valid, "test": args.test}
    if not args.split_by_name:
        return shares, set()
    subsets = map(subset_by_name, paths)
    named = {subset for subset in subsets if subset is not None and subset in shares}
    if not named:
        raise UserError("--split-by-name: no file is named valid*, dev* or test*")
    return {name: 0.0 if name in named else share for name, share in shares.items()}, named

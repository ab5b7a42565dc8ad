"""Clean dialog corpora and split them into train.tsv, valid.tsv and test.tsv.

The sources are files, folders or archives, plain or compressed, whose formats are recognised:
Amazon's questions and answers (one Python dict a line; nothing is executed), PolyAI's
conversational-datasets (JSON lines or TFRecord), records (JSON, CSV, parquet) with lists of turns
or messages or with a query and its response, turns separated by tabs or __eou__, lines that name
their speaker, subtitles (.srt, .vtt, OPUS XML), and plain lines. What is not recognised is refused;
docs/dialogs.md has an example of each format. Each output line holds one response after the turns
that precede it, separated by tabs. report.json counts what was left out.

All dialogs of a document, conversation, product or question go to the same subset, which is
chosen by a hash of the seed and that group.
"""

import argparse
from collections.abc import Callable, Iterator

from ..data.corpus.report import HELD_OUT
from ..data.corpus.source_files import without
from ..data.corpus.split import Splitter, divide
from ..data.dialog.cleaning import DEFAULT_MAX_CHARS, DEFAULT_MAX_CONTEXT_TURNS, Cleaning
from ..data.dialog.formats import Dialog, find_sources, read_dialogs, subset_by_name
from ..data.dialog.layouts import NAMES
from ..data.dialog.records import DialogReport
from ..errors import UserError
from .argument_types import fields, positive_int
from .corpus_output import (
    CorpusOutput,
    add_held_out_arguments,
    add_loss_argument,
    add_markup_argument,
    add_source_arguments,
    add_split_arguments,
    resolve_shares,
    write_corpus,
)

# Options whose values are written to report.json.
_SETTINGS = (
    *("valid", "test", "seed", "split_by_name", "format", "max_context_turns", "dedupe"),
    *("keep_asides", "keep_punctuation", "min_chars", "max_chars", "allow_equal", "fields"),
    *("markup", "max_loss", "valid_source", "test_source"),
)


def _whole_number(text: str) -> int:
    """Parse a whole number of at least 0."""
    return 0 if text == "0" else positive_int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser, NAMES)
    parser.add_argument(
        "--fields",
        type=fields,
        default=(),
        metavar="QUERY,RESPONSE",
        help="fields of records with the query and the response, or numbers of columns, as 2,3 "
        "(default: known names, such as prompt and response)",
    )
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
    add_markup_argument(cleaning, "clean subtitles and shops, keep and count others")
    add_loss_argument(cleaning)
    cleaning.add_argument(
        "--strict",
        action="store_true",
        help="stop with an error at a damaged record (not UTF-8, not JSON, code, a wrong "
        "checksum) instead of leaving it out",
    )
    split = parser.add_argument_group("split")
    add_split_arguments(split, "tsv")
    add_held_out_arguments(split, "dialogs")
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
        clean_markup=None if args.markup is None else args.markup == "clean",
    )
    given = {"valid": args.valid_source, "test": args.test_source}
    held = {name: find_sources(paths, report) for name, paths in given.items() if paths}
    paths = without(find_sources(args.source, report), held.values())
    shares, named = _shares(args, paths, held)
    splitter = Splitter(args.seed, shares["valid"], shares["test"])

    def dialogs(files: list[str], on_bytes: Callable[[int], object]) -> Iterator[Dialog]:
        return read_dialogs(
            files,
            report,
            cleaning,
            source_format=args.format,
            fields=args.fields,
            dedupe=args.dedupe,
            on_bytes=on_bytes,
        )

    def subset_of(dialog: Dialog) -> str:
        by_name = dialog.subset if dialog.subset in named else None
        return by_name or splitter.subset(dialog)

    def read(on_bytes: Callable[[int], object]) -> Iterator[tuple[str, str]]:
        return divide(
            {subset: dialogs(files, on_bytes) for subset, files in held.items()},
            dialogs(paths, on_bytes),
            subset_of,
            lambda dialog: report.drop(HELD_OUT, dialog.place),
        )

    every = {*named, *held}
    output = CorpusOutput(
        args.output, "dialog", "dialogs", "tsv", shares, every, args.quiet, args.max_loss
    )
    settings = {"settings": {name: getattr(args, name) for name in _SETTINGS}}
    everything = [path for files in (*held.values(), paths) for path in files]
    write_corpus(output, read, report, everything, {"sources": args.source, **settings})


def _shares(
    args: argparse.Namespace, paths: list[str], held: dict[str, list[str]]
) -> tuple[dict[str, float], set[str]]:
    """Return the shares of valid and test, and the subsets that ``--split-by-name`` finds.

    Raises:
        UserError: with ``--split-by-name``, no file is named after valid or test.
    """
    named = set[str]()
    if args.split_by_name:
        found = map(subset_by_name, paths)
        named = {subset for subset in found if subset in ("valid", "test")}
        if not named:
            raise UserError("--split-by-name: no file is named valid*, dev* or test*")
    shares = resolve_shares(args, {*named, *held})
    return {name: 0.0 if name in named else share for name, share in shares.items()}, named

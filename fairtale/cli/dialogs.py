"""Clean dialog corpora and split them into train.tsv, valid.tsv and test.tsv.

Reads Amazon's questions and answers (one Python dict a line; nothing is executed), PolyAI's
conversational-datasets (JSON lines or TFRecord), JSON lines with "turns", CSV with the
columns Q and A, turns separated by tabs, and subtitles, one line a turn; files or folders,
plain or gzip, each recognised by itself. Writes one response a line behind the turns that it
answers, separated by tabs, and report.json.

All dialogs of one document, conversation, product or question go to the same subset, chosen
by a hash of the seed and that group.
"""

import contextlib
import json
import os

from ..data.corpus.split import SUBSETS, StorySplitter
from ..data.dialog.cleaning import DEFAULT_MAX_CHARS, DEFAULT_MAX_CONTEXT_TURNS, Cleaning
from ..data.dialog.records import DialogReport
from ..data.dialog.sources import FORMATS, find_sources, read_dialogs, subset_by_name
from ..errors import UserError
from .argument_types import fraction, positive_int
from .files import whole_file
from .progress import progress_bar


def _whole_number(text):
    """An argparse type: 0, 1, 2, ..."""
    return 0 if text == "0" else positive_int(text)


def add_arguments(parser):
    parser.add_argument("source", nargs="+", help="file or folder; several are read in this order")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--format", choices=FORMATS, help="of every file, where recognition by itself goes wrong"
    )
    parser.add_argument(
        "--max-context-turns",
        type=_whole_number,
        default=DEFAULT_MAX_CONTEXT_TURNS,
        help="turns before the query that are kept (default: %(default)s)",
    )
    cleaning = parser.add_argument_group("cleaning")
    cleaning.add_argument(
        "--keep-asides", action="store_true", help="do not remove bracketed text, as [music]"
    )
    cleaning.add_argument(
        "--keep-punctuation",
        action="store_true",
        help="do not strip dashes, notes, commas and quotation marks around a turn "
        "(what ends a sentence always stays)",
    )
    cleaning.add_argument(
        "--min-chars",
        type=positive_int,
        default=1,
        help="of query and of response, after cleaning (default: %(default)s)",
    )
    cleaning.add_argument(
        "--max-chars",
        type=positive_int,
        default=DEFAULT_MAX_CHARS,
        help="of query and of response; context is cut at a longer turn (default: %(default)s)",
    )
    cleaning.add_argument(
        "--allow-equal", action="store_true", help="keep responses that equal their query"
    )
    cleaning.add_argument(
        "--dedupe", action="store_true", help="keep one of several dialogs with equal turns"
    )
    cleaning.add_argument(
        "--strict",
        action="store_true",
        help="a damaged record (not UTF-8, not JSON, code, a wrong checksum) is an error, "
        "not a counted loss",
    )
    split = parser.add_argument_group("split")
    split.add_argument(
        "--valid", type=fraction, default=0.005, help="share for valid.tsv (default: %(default)s)"
    )
    split.add_argument(
        "--test", type=fraction, default=0.005, help="share for test.tsv (default: %(default)s)"
    )
    split.add_argument("--seed", type=int, default=1, help="of the split (default: %(default)s)")
    split.add_argument(
        "--split-by-name",
        action="store_true",
        help="a file named test* is test as a whole, valid* or dev* is valid; a subset that "
        "has such files gets no share of the others",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args):
    report = DialogReport(strict=args.strict)
    if args.min_chars > args.max_chars:
        raise UserError(f"--min-chars {args.min_chars}: not above --max-chars {args.max_chars}")
    cleaning = Cleaning(
        remove_asides=not args.keep_asides,
        strip_punctuation=not args.keep_punctuation,
        min_chars=args.min_chars,
        max_chars=args.max_chars,
        allow_equal=args.allow_equal,
    )
    paths = find_sources(args.source, report)
    shares, named = _shares(args, paths)
    splitter = StorySplitter(args.seed, shares["valid"], shares["test"])
    # A subset that is not wanted (share 0) is not written, and none is left from before.
    wanted = [s for s in SUBSETS if s == "train" or shares[s] > 0 or s in named]
    counts = dict.fromkeys(wanted, 0)
    with contextlib.ExitStack() as stack:
        # All files take their names together at the end, the report last.
        report_file = stack.enter_context(whole_file(os.path.join(args.output, "report.json")))
        files = {
            name: stack.enter_context(whole_file(os.path.join(args.output, f"{name}.tsv")))
            for name in wanted
        }
        total = sum(map(os.path.getsize, paths))
        bar = stack.enter_context(
            progress_bar(total, "B", "dialogs", unit_scale=True, disable=args.quiet)
        )
        dialogs = read_dialogs(
            paths,
            report,
            cleaning,
            max_context_turns=args.max_context_turns,
            source_format=args.format,
            dedupe=args.dedupe,
            on_bytes=bar.update,
        )
        for dialog in dialogs:
            subset = dialog.subset if dialog.subset in named else splitter.subset(dialog)
            files[subset].write(dialog.text + "\n")
            counts[subset] += 1
        _check_counts(args, report, counts, named)
        json.dump({**report.as_dict(), "subsets": counts, **_settings(args)}, report_file, indent=1)
        report_file.write("\n")
    for name in set(SUBSETS) - set(wanted):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(args.output, f"{name}.tsv"))
    for line in report.lines():
        print(line)
    print(f"{', '.join(f'{name} {count}' for name, count in counts.items())} -> {args.output}")


def _shares(args, paths):
    """The shares of valid and test, and the subsets that have files of their own.

    Raises:
        UserError: with --split-by-name no file is named after valid or test.
    """
    shares = {"valid": args.valid, "test": args.test}
    if not args.split_by_name:
        return shares, set()
    named = {subset_by_name(path) for path in paths} & set(shares)
    if not named:
        raise UserError("--split-by-name: no file is named valid*, dev* or test*")
    return {name: 0.0 if name in named else share for name, share in shares.items()}, named


def _settings(args):
    names = (
        *("valid", "test", "seed", "split_by_name", "format", "max_context_turns", "dedupe"),
        *("keep_asides", "keep_punctuation", "min_chars", "max_chars", "allow_equal"),
    )
    return {"sources": args.source, "settings": {name: getattr(args, name) for name in names}}


def _check_counts(args, report, counts, named):
    """An empty subset would only be noticed much later, by fairseq, in other words."""
    if not report.num_kept:
        reasons = "; ".join(f"{kind}: {count}" for kind, count in report.skipped.items())
        places = [place for named in report.places.values() for place in named]
        first = f", first: {places[0]}" if places else ""
        raise UserError(
            f"no dialog found in {', '.join(args.source)} "
            f"({reasons or 'the files are empty'}{first})"
        )
    for name, count in counts.items():
        if count:
            continue
        if name in named:
            raise UserError(f"--split-by-name: no dialog is left of the {name} files")
        share = getattr(args, name, None)
        asked = f"--{name} {share} of " if share is not None else "the rest of "
        raise UserError(
            f"{asked}{report.num_kept} dialogs came to 0 {name} dialogs; "
            "raise the share, give more dialogs, or set the share to 0"
        )

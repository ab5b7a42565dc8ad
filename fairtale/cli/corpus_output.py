"""Options and output of the verbs that clean a corpus: the subsets and the report.

The files of a corpus, one for each subset and ``report.json``, are renamed to their names only
after all of them are written. After an error or an interrupt, the files of an earlier run are
untouched.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..data.corpus.report import CorpusReport
from ..data.corpus.split import SUBSETS
from ..errors import UserError
from .argument_types import fraction, share
from .files import whole_file
from .progress import progress_bar

DEFAULT_SHARE = 0.005  # of the validation and of the test set
DEFAULT_MAX_LOSS = 0.1


class AddsArguments(Protocol):
    """A parser or an argument group."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add one argument."""
        ...


def add_source_arguments(parser: AddsArguments, formats: Iterable[str]) -> None:
    """Add the options that name sources, their format and the folder for the results."""
    parser.add_argument("source", nargs="+", help="files or folders, which are read in this order")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--format",
        choices=tuple(formats),
        help="format of all files (default: recognised for each file)",
    )


def add_loss_argument(parser: AddsArguments) -> None:
    """Add ``--max-loss``, the limit of :func:`check_losses`."""
    parser.add_argument(
        "--max-loss",
        type=share,
        default=DEFAULT_MAX_LOSS,
        metavar="SHARE",
        help="share of the corpus, in records or bytes, that may be damaged; a larger loss is an "
        "error (default: %(default)s; 1 allows any)",
    )


def add_markup_argument(parser: AddsArguments, default: str) -> None:
    """Add ``--markup``.

    Args:
        parser: the parser of the verb.
        default: what happens without the option, for the help.
    """
    parser.add_argument(
        "--markup",
        choices=("clean", "keep"),
        help="remove tags such as <i> and replace entities such as &amp; by their characters, or "
        f"keep both (default: {default})",
    )


def add_held_out_arguments(parser: AddsArguments, many: str) -> None:
    """Add the options that name files of a published validation or test set."""
    for name in ("valid", "test"):
        parser.add_argument(
            f"--{name}-source",
            action="append",
            default=[],
            metavar="PATH",
            help=f"file or folder whose {many} are the {name} set, whole; may be repeated; what is "
            "equal to one of them is left out of the training set",
        )


def add_split_arguments(parser: AddsArguments, extension: str) -> None:
    """Add the options of :class:`~fairtale.data.corpus.split.Splitter`."""
    for name in ("valid", "test"):
        parser.add_argument(
            f"--{name}",
            type=fraction,
            metavar="SHARE",
            help=f"share of the corpus for {name}.{extension} (default: {DEFAULT_SHARE}, or 0 "
            "where the set has files of its own)",
        )
    parser.add_argument(
        "--seed", type=int, default=1, help="random seed of the split (default: %(default)s)"
    )


def resolve_shares(args: argparse.Namespace, named: Collection[str]) -> dict[str, float]:
    """Set ``args.valid`` and ``args.test`` if they are not given, and return the shares.

    Args:
        args: the options of a verb.
        named: subsets that have files of their own, which get no share of the others.

    Raises:
        UserError: a share is given for such a subset.
    """
    for name in ("valid", "test"):
        given = getattr(args, name)
        if given and getattr(args, f"{name}_source"):
            raise UserError(f"--{name} {given} and --{name}-source: give one of them")
        if given is None:
            setattr(args, name, 0.0 if name in named else DEFAULT_SHARE)
    return {"valid": args.valid, "test": args.test}


@dataclass(frozen=True)
class CorpusOutput:
    """The folder and the subsets to which a corpus is written.

    Args:
        folder: folder for the results.
        one, many: noun for a sample in messages, singular and plural: ``story``, ``stories``.
        extension: extension of the files.
        shares: shares of the subsets ``valid`` and ``test``, in [0, 1); a subset with share 0 is
            not written.
        named: subsets with source files of their own, which are written whatever their share.
        quiet: show no progress bar.
        max_loss: largest share that may be lost, in [0, 1].
    """

    folder: str
    one: str
    many: str
    extension: str
    shares: Mapping[str, float]
    named: Collection[str] = ()
    quiet: bool = False
    max_loss: float = 1.0

    @property
    def wanted(self) -> list[str]:
        """The subsets to write."""
        return [s for s in SUBSETS if s == "train" or self.shares[s] > 0 or s in self.named]

    def path(self, subset: str) -> str:
        """Return the path of the file of a subset."""
        return os.path.join(self.folder, f"{subset}.{self.extension}")


def write_corpus(
    output: CorpusOutput,
    read: Callable[[Callable[[int], object]], Iterable[tuple[str, str]]],
    report: CorpusReport,
    paths: Iterable[str],
    settings: Mapping[str, Any],
) -> None:
    """Write the subsets of a corpus and ``report.json``, and print the report.

    Args:
        output: the folder and the subsets.
        read: a function that reads the corpus and yields ``(subset, line)``. Its argument is a
            function that it calls with the number of bytes it has just read.
        report: the report that ``read`` fills.
        paths: the source files.
        settings: further entries of ``report.json``; ``sources`` are the sources as given by the
            user.

    Raises:
        UserError: nothing was read, or a subset is empty.
    """
    counts = dict.fromkeys(output.wanted, 0)
    with contextlib.ExitStack() as stack:
        # The first file that is entered is renamed last, so that the report completes the folder.
        report_file = stack.enter_context(whole_file(os.path.join(output.folder, "report.json")))
        files = {name: stack.enter_context(whole_file(output.path(name))) for name in counts}
        total = sum(map(os.path.getsize, paths))
        bar = stack.enter_context(
            progress_bar(total, "B", output.many, unit_scale=True, disable=output.quiet)
        )
        for subset, line in read(bar.update):
            files[subset].write(line + "\n")
            counts[subset] += 1
        check_counts(output, report, counts, settings["sources"])
        check_losses(report, output.max_loss)
        write_json({**report.as_dict(), "subsets": counts, **settings}, report_file)
    for name in set(SUBSETS) - set(counts):  # remove further subsets of an earlier run
        with contextlib.suppress(FileNotFoundError):
            os.unlink(output.path(name))
    for text in report.lines():
        print(text)
    print(summary(counts, output.folder))


def check_counts(
    output: CorpusOutput, report: CorpusReport, counts: Mapping[str, int], sources: Iterable[str]
) -> None:
    """Refuse an empty subset here, because fairseq reports it later and less clearly.

    Raises:
        UserError: nothing was read, or a subset is empty.
    """
    if not report.num_kept:
        reasons = "; ".join(f"{kind}: {count}" for kind, count in report.skipped.items())
        places = [place for named in report.places.values() for place in named]
        first = f", first: {places[0]}" if places else ""
        raise UserError(
            f"no {output.one} found in {', '.join(sources)} "
            f"({reasons or 'the files are empty'}{first})"
        )
    for name, count in counts.items():
        if count:
            continue
        if name in output.named:
            raise UserError(f"no {output.one} of the {name} files is left after cleaning")
        share = output.shares.get(name)
        asked = f"--{name} {share} of " if share is not None else "the rest of "
        raise UserError(
            f"{asked}{report.num_kept} {output.many} came to 0 {name} {output.many}; "
            f"raise the share, give more {output.many}, or set the share to 0"
        )


def check_losses(report: CorpusReport, max_loss: float) -> None:
    """Refuse a corpus of which much was lost, as when it is read in a wrong format or encoding.

    Args:
        report: counts what was kept and lost.
        max_loss: largest share that may be lost, in [0, 1].

    Raises:
        UserError: more was lost.
    """
    if report.lost_share <= max_loss:
        return
    kinds = "; ".join(
        f"{kind}: {count} (first: {', '.join(report.places[kind][:1])})"
        for kind, count in report.damaged.most_common(3)
    )
    raise UserError(
        f"{100 * report.lost_share:.0f} % of the corpus is lost ({kinds}): correct the files or "
        f"--format, or allow it with --max-loss (now {max_loss:g})"
    )


def write_json(values: Mapping[str, Any], stream: Any) -> None:
    """Write a report to an open text file."""
    json.dump(values, stream, indent=1)
    stream.write("\n")


def summary(counts: Mapping[str, int], folder: str) -> str:
    """Return one line with the sizes of the subsets of ``folder``."""
    return f"{', '.join(f'{name} {count}' for name, count in counts.items())} -> {folder}"

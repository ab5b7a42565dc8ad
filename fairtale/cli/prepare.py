"""Options and steps shared by the verbs ``fairtale prepare ...``.

These verbs call other verbs to clean and split text, to learn pieces and to encode text, and then
they call ``fairseq-preprocess`` to binarise it. The resulting folder appears complete or not at
all, and it records the settings it was made with.
"""

import argparse
import contextlib
import functools
import importlib
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.corpus.download import download
from ..data.corpus.split import SUBSETS, Splitter
from ..data.corpus.whole_folder import describe_source, whole_folder
from ..errors import UserError
from .argument_types import fraction, positive_int
from .child_process import run_to_end
from .devices import usable_cpus
from .main import VERBS, run_verb
from .progress import progress_bar
from .spm_train import NORMALIZATIONS
from .usage import short_errors

logger = logging.getLogger(__name__)

IDENTITY = "identity"  # the default of --normalization
SENTENCEPIECE, BYTE_LEVEL = "sentencepiece", "byte_level"  # values of --bpe
DOWNLOAD_DIR = os.path.join("data-bin", "download")
# `.../train.txt: 1234 sents, 5678 tokens, 0.0% replaced (by <unk>)`
_BINARISED = re.compile(r"[^/\n]+: \d+ sents.*")
_LINES_SHOWN_OF_A_FAILURE = 20


# --------------------------------------------------------------------------------- options


class PassOn(argparse.Action):
    """An argparse action that collects options and their values for another verb."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        words = [self.option_strings[-1], *([] if self.nargs == 0 else [str(values)])]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *words])


def pass_on(
    parser: argparse.ArgumentParser, verb: str, flags: Sequence[str], valued: Sequence[str]
) -> None:
    """Add options that are passed on to another verb; they are collected in ``args.options``.

    Args:
        parser: the parser of the calling verb.
        verb: the verb that receives the options, and that documents and checks them.
        flags: names of options without a value.
        valued: names of options with a value.
    """
    group = parser.add_argument_group(f"passed on to `fairtale {verb}`; see its --help")
    for name in flags:
        group.add_argument(name, dest="options", action=PassOn, nargs=0)
    for name in valued:
        group.add_argument(name, dest="options", action=PassOn, metavar="X")
    parser.set_defaults(options=[])


def as_typed(kind: Callable[[str], object]) -> Callable[[str], str]:
    """Return an argparse type that checks a value with ``kind`` but returns the original text.

    The settings of a data folder are compared as text, so 0.10 must not become 0.1.
    """

    @functools.wraps(kind)
    def check(text: str) -> str:
        kind(text)
        return text

    return check


def add_shared_arguments(
    parser: argparse.ArgumentParser, data_bin: str, vocab_size: int | None, vocab_help: str
) -> None:
    """Add the options that all ``prepare`` verbs have.

    Args:
        parser: the parser of the verb.
        data_bin: default of ``--data-bin``.
        vocab_size: default of ``--vocab-size``; None if the verb finds out whether it is given.
        vocab_help: help text of ``--vocab-size``.
    """
    short_errors(parser)
    parser.add_argument(
        "--data-bin", default=data_bin, metavar="DIR", help="folder to make (default: %(default)s)"
    )
    parser.add_argument(
        "--vocab-size",
        type=as_typed(positive_int),
        default=None if vocab_size is None else str(vocab_size),
        metavar="N",
        help=vocab_help if vocab_size is None else f"{vocab_help} (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=usable_cpus(),
        metavar="N",
        help="number of processes (default: all CPUs)",
    )


def add_split_arguments(parser: argparse.ArgumentParser, valid: str, test: str) -> None:
    """Add ``--valid``, ``--test`` and ``--seed``.

    Args:
        parser: the parser of the verb.
        valid, test: descriptions of the defaults of ``--valid`` and ``--test``, for their help.
    """
    for name, subset, default in (("valid", "validation", valid), ("test", "test", test)):
        parser.add_argument(
            f"--{name}",
            type=as_typed(fraction),
            metavar="SHARE",
            help=f"share of the corpus for the {subset} set (default: {default})",
        )
    parser.add_argument(
        "--seed",
        type=as_typed(int),
        default="1",
        metavar="N",
        help="random seed of the split (default: 1)",
    )


def add_bpe_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--bpe``."""
    parser.add_argument(
        "--bpe",
        choices=(SENTENCEPIECE, BYTE_LEVEL),
        default=SENTENCEPIECE,
        help="kind of the pieces: SentencePiece, or byte-level BPE as of GPT-2 (default: "
        "%(default)s)",
    )
    add_normalization_argument(parser)


def add_normalization_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--normalization``."""
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="Unicode normalization before SentencePiece (default: identity, which changes no "
        "character; bits per byte are those of the text before it)",
    )


def bpe_settings(bpe: str, normalization: str | None) -> list[str]:
    """Return the lines of the settings.

    Raises:
        UserError: a normalization is asked for that byte-level BPE does not have.
    """
    if bpe == SENTENCEPIECE:
        return [f"normalization {normalization or IDENTITY}"]
    if normalization not in (None, IDENTITY):
        raise UserError(
            f"--normalization {normalization}: byte-level BPE encodes every byte as it is; leave "
            "the option out, or give --bpe sentencepiece"
        )
    return [f"bpe {bpe}"]


# -------------------------------------------------------------------------------- sources


def fetch(url: str, path: str, sha256: str = "") -> None:
    """Download a file unless it exists; see :func:`download`."""
    bar = functools.partial(progress_bar, None, "B", "fetching", unit_scale=True)
    download(url, path, sha256, bar)


def check_sources(sources: Sequence[str], option: str = "--source") -> None:
    """Check that all sources exist.

    Raises:
        UserError: a source does not exist.
    """
    for source in sources:
        if not os.path.exists(source):
            raise UserError(f"{option} {source}: no such file or folder")


def split_words(args: argparse.Namespace, share_valid: str, share_test: str) -> list[str]:
    """Return the options of the split for the verb that cleans a corpus.

    Args:
        args: the options of :func:`add_split_arguments`, and the files of held-out sets.
        share_valid, share_test: shares of the sets that have no files of their own.
    """
    words = ["--seed", args.seed]
    for name, share in (("valid", share_valid), ("test", share_test)):
        files, given = getattr(args, f"{name}_source"), getattr(args, name)
        check_sources(files, f"--{name}-source")
        words += [word for file in files for word in (f"--{name}-source", file)]
        words += [f"--{name}", given or share] if given or not files else []
    return words


def held_out_settings(args: argparse.Namespace) -> list[str]:
    """Return the lines of the settings that describe the files of the held-out sets."""
    return [
        f"{name}-source {describe_source(file)}"
        for name in ("valid", "test")
        for file in getattr(args, f"{name}_source")
    ]


def check_passed_on(
    verb: str, words: Sequence[str], valid: str | None = None, test: str | None = None
) -> None:
    """Check the options of a verb that is called later, before anything is downloaded.

    Args:
        verb: the verb.
        words: a command line that it accepts, with the options that are passed on.
        valid, test: shares of the held-out sets; None if the verb has none.

    Raises:
        SystemExit: argparse has reported an option.
        UserError: the shares leave nothing for training.
    """
    Splitter(0, float(valid or 0), float(test or 0))
    parser = argparse.ArgumentParser(prog=f"fairtale {verb}")
    short_errors(parser)
    importlib.import_module(VERBS[verb][0], __package__).add_arguments(parser)
    parser.parse_args(list(words))


# ---------------------------------------------------------------------------------- steps


class Work(NamedTuple):
    """Working folder and its subfolders."""

    folder: str
    text: str  # cleaned text
    pieces: str  # encoded text
    made: str  # the result, which is renamed at the end


@contextlib.contextmanager
def new_data(data_bin: str, settings: Sequence[str]) -> Iterator[Work]:
    """Create working folders, and rename ``made`` to ``data_bin`` on success.

    The working folders are removed at the end, also if the run is interrupted (Ctrl-C) or
    terminated (SIGTERM, SIGHUP).

    Args:
        data_bin: the folder to make.
        settings: see :func:`whole_folder`.

    Yields:
        the working folders; ``folder`` exists, and its subfolders are created by the steps.
    """
    with _ended_by_signals(), whole_folder(data_bin, settings) as folder:
        yield Work(folder, *(os.path.join(folder, name) for name in ("text", "pieces", "made")))
    say("%s is ready", data_bin)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit within the block, so that it can clean up."""
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + number)
        # In a worker process, which has inherited this handler, restore the default action.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # Leave ignored signals alone; nohup, for example, ignores SIGHUP.
    numbers = (signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def subset_files(folder: str, extension: str) -> dict[str, str]:
    """Return the paths of the subsets that ``folder`` has, in their usual order."""
    paths = {subset: os.path.join(folder, f"{subset}.{extension}") for subset in SUBSETS}
    return {subset: path for subset, path in paths.items() if os.path.isfile(path)}


def say(message: str, *values: object) -> None:
    """Log a message about a step to stderr."""
    logger.info(f"== {message}", *values)


def call(*words: str) -> None:
    """Run another verb in this process."""
    run_verb(list(words))


def preprocess(work: Work, words: Sequence[str], workers: int, counted: str) -> None:
    """Binarise text with fairseq-preprocess, and check that no line was lost.

    Args:
        work: the working folders.
        words: options of the command other than ``--destdir`` and ``--workers``.
        workers: number of processes.
        counted: folder with files that have the same names and numbers of lines as the files to
            binarise.

    Raises:
        UserError: the command failed, or it has read another number of lines.
    """
    say("4/4 fairseq-preprocess")
    log = Path(work.folder, "preprocess.out")
    status = _run_preprocess([*words, "--destdir", work.made, "--workers", str(workers)], log)
    output = log.read_text(encoding="utf-8", errors="replace")
    if status:
        logger.error("\n".join(output.splitlines()[-_LINES_SHOWN_OF_A_FAILURE:]))
        raise UserError("fairseq-preprocess failed; its last lines are shown above")
    for name in sorted(os.listdir(counted)):
        path = os.path.join(counted, name)
        if os.path.splitext(name)[1] == ".json" or not os.path.isfile(path):
            continue
        num_lines = _num_lines(path)
        if f"/{name}: {num_lines} sents" not in output:
            raise UserError(
                f"fairseq-preprocess has not read all {num_lines} lines of {name}; run again"
            )
    print("\n".join(_BINARISED.findall(output)))


def _num_lines(path: str) -> int:
    with open(path, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _run_preprocess(words: Sequence[str], log: Path) -> int:
    """Run fairseq-preprocess, write its output to ``log``, and return its exit status."""
    name = "fairseq-preprocess"
    beside = shutil.which(name, path=os.path.dirname(sys.executable))
    command = shutil.which(name) or beside
    if command is None:
        raise UserError(f"{name} is not installed; run: make setup")
    with open(log, "wb") as stream:
        return run_to_end([command, *words], stream)

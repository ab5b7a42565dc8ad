"""What the verbs ``fairtale prepare ...`` share: their options, and the chain of commands.

Text is cleaned and divided, pieces are learned, text is encoded and binarised by the verbs and
by ``fairseq-preprocess``; here is what holds them together. The result appears whole or not at
all, and knows the settings it was made with.
"""

import argparse
import contextlib
import functools
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.corpus.download import download
from ..data.corpus.whole_folder import whole_folder
from ..errors import UserError
from .argument_types import fraction, positive_int
from .devices import usable_cpus
from .main import run_verb
from .progress import progress_bar
from .usage import short_errors

logger = logging.getLogger(__name__)

DOWNLOAD_DIR = os.path.join("data-bin", "download")
# `.../train.txt: 1234 sents, 5678 tokens, 0.0% replaced (by <unk>)`
_BINARISED = re.compile(r"[^/\n]+: \d+ sents.*")
_LINES_SHOWN_OF_A_FAILURE = 20
_SECONDS_TO_STOP = 5.0


# --------------------------------------------------------------------------------- options


class PassOn(argparse.Action):
    """Keep an option and its value, in the order given, for the verb that is called with them."""

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
    """Add options that go to another verb as they are; they are collected in ``args.options``.

    Args:
        verb: explains and checks them.
        flags: options without a value.
        valued: options with one.
    """
    group = parser.add_argument_group(f"passed on, see: fairtale {verb} --help")
    for name in flags:
        group.add_argument(name, dest="options", action=PassOn, nargs=0)
    for name in valued:
        group.add_argument(name, dest="options", action=PassOn, metavar="X")
    parser.set_defaults(options=[])


def as_typed(kind: Callable[[str], object]) -> Callable[[str], str]:
    """Return an argparse type that checks a value by ``kind`` and returns it as it was typed.

    The settings of finished data are compared as text, so 0.10 must not become 0.1.
    """

    @functools.wraps(kind)
    def check(text: str) -> str:
        kind(text)
        return text

    return check


def add_shared_arguments(
    parser: argparse.ArgumentParser, data_bin: str, vocab_size: int, vocab_help: str
) -> None:
    """Add the options that every kind of data has."""
    short_errors(parser)
    parser.add_argument(
        "--data-bin", default=data_bin, metavar="DIR", help="result (default: %(default)s)"
    )
    parser.add_argument(
        "--vocab-size",
        type=as_typed(positive_int),
        default=str(vocab_size),
        metavar="N",
        help=f"{vocab_help} (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=usable_cpus(),
        metavar="N",
        help="processes (default: all CPUs)",
    )


def add_split_arguments(parser: argparse.ArgumentParser, valid: str, test: str) -> None:
    """Add ``--valid`` and ``--test``, whose help names these defaults, and ``--seed``."""
    for name, subset, default in (("valid", "validation", valid), ("test", "the test set", test)):
        parser.add_argument(
            f"--{name}",
            type=as_typed(fraction),
            metavar="X",
            help=f"share for {subset} (default: {default})",
        )
    parser.add_argument(
        "--seed",
        type=as_typed(int),
        default="1",
        metavar="N",
        help="random seed of the split (default: 1)",
    )


# -------------------------------------------------------------------------------- sources


def fetch(url: str, path: str, sha256: str = "") -> None:
    """Fetch a file that is not there yet; see :func:`download`."""
    bar = functools.partial(progress_bar, None, "B", "fetching", unit_scale=True)
    download(url, path, sha256, bar)


def check_sources(sources: Sequence[str]) -> None:
    """Raise UserError where a source does not exist."""
    for source in sources:
        if not os.path.exists(source):
            raise UserError(f"--source {source}: no such file or folder")


# ---------------------------------------------------------------------------------- chain


class Work(NamedTuple):
    """Folders in which data are put together."""

    folder: str
    text: str  # cleaned text
    pieces: str  # encoded text
    made: str  # becomes the result


@contextlib.contextmanager
def new_data(data_bin: str, settings: Sequence[str]) -> Iterator[Work]:
    """Provide folders; ``made`` becomes ``data_bin`` at the end, and all others are removed.

    Also where the run is interrupted (Ctrl-C) or ended (SIGTERM, SIGHUP).
    """
    with _ended_by_signals(), whole_folder(data_bin, settings) as folder:
        yield Work(folder, *(os.path.join(folder, name) for name in ("text", "pieces", "made")))
    say("%s is ready", data_bin)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit in the block, so that it can clear up."""
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # a worker process has inherited this function
        os.kill(os.getpid(), number)

    # What is ignored (as under nohup) stays ignored.
    numbers = (signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def say(message: str, *values: object) -> None:
    """Report a step on stderr."""
    logger.info(f"== {message}", *values)


def call(*words: str) -> None:
    """Run another verb in this process."""
    run_verb(list(words))


def preprocess(work: Work, words: Sequence[str], workers: int, counted: str) -> None:
    """Binarise with fairseq-preprocess, and check that no line was lost.

    Args:
        words: options of the command besides ``--destdir`` and ``--workers``.
        counted: folder whose files are binarised, with as many lines, under the same names.

    Raises:
        UserError: the command failed, or has read another number of lines.
    """
    say("4/4 fairseq-preprocess")
    log = Path(work.folder, "preprocess.out")
    status = _run_preprocess([*words, "--destdir", work.made, "--workers", str(workers)], log)
    output = log.read_text(encoding="utf-8", errors="replace")
    if status:
        logger.error("\n".join(output.splitlines()[-_LINES_SHOWN_OF_A_FAILURE:]))
        raise UserError("fairseq-preprocess failed, see above")
    for name in sorted(os.listdir(counted)):
        path = os.path.join(counted, name)
        if os.path.splitext(name)[1] == ".json" or not os.path.isfile(path):
            continue
        num_lines = _num_lines(path)
        if f"/{name}: {num_lines} sents" not in output:
            raise UserError(f"fairseq-preprocess lost lines of {name}, which has {num_lines}")
    print("\n".join(_BINARISED.findall(output)))


def _num_lines(path: str) -> int:
    with open(path, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _run_preprocess(words: Sequence[str], log: Path) -> int:
    """Return the exit status; what the command says goes to ``log``."""
    name = "fairseq-preprocess"
    beside = shutil.which(name, path=os.path.dirname(sys.executable))
    command = shutil.which(name) or beside
    if command is None:
        raise UserError(f"{name} is not installed; run: make setup")
    with open(log, "wb") as stream:
        process = subprocess.Popen([command, *words], stdout=stream, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except BaseException:
            _stop(process)
            raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command that has worker processes: an interrupt lets it end them itself."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

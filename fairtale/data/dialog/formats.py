"""Read dialog corpora of all supported formats, and yield cleaned dialogs, one per response.

    amazon         one Python dict literal a line: question and answer(s)
    polyai         JSON lines: context, context/0, ..., response
    tfrecord       the same fields as tf.train.Example
    conversations  JSON lines: turns, a list in which each turn answers those before it
    pairs          JSON lines: q and a (or question and answer), and other fields
    csv            columns Q and A (or question and answer), with a header
    tsv            the turns of a dialog, separated by tabs; the last is the response
    lines          subtitles: every line answers those before it; an empty line ends a document

Files of all formats may be compressed with gzip.

To add a format, write a reader, add it to :data:`READERS`, and extend :func:`detect_format`.
"""

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from typing import NamedTuple

from ...errors import UserError
from ..corpus.records import ByteStream
from ..corpus.report import DUPLICATE
from ..corpus.source_files import find_files
from ..corpus.split import DuplicateFilter
from ..corpus.tfrecord import is_tfrecord
from .amazon import read_amazon
from .cleaning import (
    NO_RESPONSE,
    TURNS_DROPPED,
    Cleaning,
    choose_turns,
    clean_turn,
    whole_characters,
)
from .polyai import read_polyai_json, read_polyai_tfrecord
from .records import DialogReport, RawDialog
from .text_formats import (
    find_columns,
    find_fields,
    read_conversations,
    read_csv,
    read_lines,
    read_pairs,
    read_tsv,
)

_EXTENSIONS = (".json", ".jsonl", ".tsv", ".csv", ".txt", ".tfrecord", ".tfrecords")
_SNIFF_BYTES = 1 << 16
_PROGRESS_STEP = 1000  # dialogs


class Dialog(NamedTuple):
    """A cleaned dialog; its turns and its group can be encoded as UTF-8."""

    turns: list[str]  # oldest first; the last two are query and response; without tabs, not empty
    group: str  # name of the group whose dialogs must share a subset
    place: str  # ``file:line``
    subset: str | None  # train, valid or test, if the name of the file begins with it

    @property
    def text(self) -> str:
        """The turns as one line, separated by tabs."""
        return "\t".join(self.turns)


def find_sources(sources: Iterable[str], report: DialogReport) -> list[str]:
    """Return the files of ``sources``, as :func:`..corpus.source_files.find_files` does."""
    return find_files(sources, _EXTENSIONS, report.ignored_files, gzipped=True)


def subset_by_name(path: str) -> str | None:
    """Return ``train``, ``valid`` or ``test`` if the name of a file begins with it, else None."""
    word = re.match(r"(train|valid|dev|test)(?![a-z])", os.path.basename(path).lower())
    return word[1].replace("dev", "valid") if word else None


def _decompressed(raw: BufferedReader) -> ByteStream:
    """Return ``raw``, or a decompressing stream if it holds gzip data."""
    return gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{path}: damaged or incomplete gzip file ({error}); fetch it again")


def detect_format(path: str) -> tuple[str, str]:
    """Return the format of a file and the reason, judged by its content and its name.

    Raises:
        UserError: the file has none of the supported formats.
    """
    try:
        with open(path, "rb") as raw:
            head = _decompressed(raw).read(_SNIFF_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    if is_tfrecord(head):
        return "tfrecord", "content begins with a checksum"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: UTF-16 text; convert it to UTF-8 (iconv -f UTF-16)")
    if b"\0" in head:
        raise UserError(f"{path}: neither text nor TFRecord (it holds null bytes)")
    name = path.lower().removesuffix(".gz")
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    first = next((line for line in lines if line.strip()), b"")
    if name.endswith((".json", ".jsonl")) or first.lstrip().startswith((b"{'", b'{"')):
        return _detect_json(path, lines)
    if name.endswith(".csv") or find_columns(first.decode("utf-8", "replace").split(",")):
        return "csv", "columns Q and A"
    if name.endswith(".tsv"):
        return "tsv", "extension .tsv"
    if b"\t" in first:
        return "tsv", "a tab in the first line"
    return "lines", "plain text"


def _detect_json(path: str, lines: list[bytes]) -> tuple[str, str]:
    for line in lines:
        line = line.lstrip()
        if line.startswith(b"{'"):
            return "amazon", "Python dicts"
        if line.startswith(b'{"'):
            if b'"turns"' in line:
                return "conversations", 'JSON with "turns"'
            if b'"response"' in line or b'"context"' in line:
                return "polyai", 'JSON with "context"'
            if find_fields(line):
                return "pairs", 'JSON with "q" and "a"'
    raise UserError(
        f"{path}: unknown JSON: its objects have neither turns, nor q and a, nor context and "
        "response, and they are no Python dicts with question and answer, one a line; if the file "
        "is damaged, "
        "give --format"
    )


def read_dialogs(
    sources: Iterable[str],
    report: DialogReport,
    cleaning: Cleaning = Cleaning(),  # noqa: B008 (it is immutable)
    *,
    source_format: str | None = None,
    dedupe: bool = False,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[Dialog]:
    """Read all dialogs of files and folders, clean them, and yield them in a fixed order.

    Args:
        sources: paths of files and folders.
        report: counts the dialogs that are kept and left out, and the repairs.
        cleaning: how turns are cleaned, and which dialogs are kept.
        source_format: format of all files, a key of :data:`READERS`; None detects the format of
            each file.
        dedupe: leave out dialogs whose exact turns have occurred before, and count them.
        on_bytes: called with the number of bytes that have just been read from disk.

    Raises:
        UserError: a source is missing or truncated, or it does not have its format.
    """
    duplicates = DuplicateFilter() if dedupe else None
    for path in find_sources(sources, report):
        by_hand = (source_format, "--format") if source_format else None
        detected, reason = by_hand or detect_format(path)
        report.files.setdefault(detected, []).append((path, reason))
        subset = subset_by_name(path)
        for raw in _read_file(path, READERS[detected], report, on_bytes):
            group = whole_characters(raw.group)
            for turns, place in _exchanges(raw, cleaning, report):
                dialog = Dialog(turns, group, place, subset)
                if duplicates and not duplicates.is_new(dialog):
                    report.leave_out(DUPLICATE, place)
                    continue
                report.num_kept += 1
                yield dialog


def _read_file(
    path: str, reader: "Reader", report: DialogReport, on_bytes: Callable[[int], object] | None
) -> Iterator[RawDialog]:
    done = 0
    with open(path, "rb") as raw:
        records = reader(_decompressed(raw), path, report)
        number = 0
        while True:
            try:
                record = next(records, None)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise _damaged(path, error) from error
            number += 1
            if on_bytes and (record is None or number % _PROGRESS_STEP == 0):
                on_bytes(raw.tell() - done)
                done = raw.tell()
            if record is None:
                return
            yield record


def _exchanges(
    raw: RawDialog, cleaning: Cleaning, report: DialogReport
) -> Iterator[tuple[list[str], str]]:
    """Yield ``(turns, place)`` for every response in a raw dialog."""
    turns = [clean_turn(turn, cleaning) for turn in raw.turns]
    if not raw.every_turn:
        chosen = choose_turns(turns, cleaning, raw.place, report)
        if chosen:
            yield chosen, raw.place
        return
    # Turns without words are dropped, so the next turn answers the one before them.
    spoken = [turn for turn in turns if turn]
    if len(spoken) < len(turns):
        report.mend(TURNS_DROPPED, raw.place, len(turns) - len(spoken))
    if len(spoken) < 2:
        report.leave_out(NO_RESPONSE, raw.place)
    for end in range(2, len(spoken) + 1):
        window = spoken[max(0, end - 2 - cleaning.max_context_turns) : end]
        place = f"{raw.place} (turn {end})"
        chosen = choose_turns(window, cleaning, place, report)
        if chosen:
            yield chosen, place


Reader = Callable[[ByteStream, str, DialogReport], Iterator[RawDialog]]
READERS: dict[str, Reader] = {
    "amazon": read_amazon,
    "polyai": read_polyai_json,
    "tfrecord": read_polyai_tfrecord,
    "conversations": read_conversations,
    "pairs": read_pairs,
    "csv": read_csv,
    "tsv": read_tsv,
    "lines": read_lines,
}
FORMATS = tuple(READERS)

"""Dialog corpora of every known format, cleaned, one response at a time.

    amazon         one Python dict literal a line: question and answer(s)
    polyai         JSON lines: context, context/0, ..., response
    tfrecord       the same fields as tf.train.Example
    conversations  JSON lines: turns, a list in which each turn answers those before it
    csv            columns Q and A (or question and answer), with a header
    tsv            the turns of a dialog, separated by tabs; the last is the response
    lines          subtitles: every line answers those before it; an empty line ends a document

Any of them may be compressed with gzip.
"""

import csv
import gzip
import os
import re
import zlib
from typing import NamedTuple

from ...errors import UserError
from ..corpus.records import DUPLICATE
from ..corpus.source_files import find_files
from ..corpus.split import DuplicateFilter
from ..corpus.tfrecord import is_tfrecord
from .amazon import read_amazon
from .cleaning import (
    DEFAULT_MAX_CONTEXT_TURNS,
    NO_RESPONSE,
    TURNS_DROPPED,
    Cleaning,
    choose_turns,
    clean_turn,
    whole_characters,
)
from .polyai import read_polyai_json, read_polyai_tfrecord
from .records import RawDialog, read_json_lines, read_text

NO_TURNS = "no list of turns"
NO_COLUMN = "no question or no answer column"
TOO_MANY_TURNS = "too many turns"

# More tabs than this in a line are a table or a damaged file, not a dialog.
MAX_TURNS = 1000
# Where a corpus of lines does not say where documents end, as OPUS' plain text does not.
_DOCUMENT_LINES = 10_000
# The first lines of a document tell it from others; equal ones are the same film.
_GROUP_LINES = 5

_EXTENSIONS = (".json", ".jsonl", ".tsv", ".csv", ".txt", ".tfrecord", ".tfrecords")
_SNIFF_BYTES = 1 << 16
_PROGRESS_STEP = 1000  # dialogs
_QUESTION, _ANSWER = ("q", "question"), ("a", "answer")


class Dialog(NamedTuple):
    """A cleaned dialog.

    ``turns``: oldest first; the last two are query and response; none is empty or holds a
    tab or line break. ``group`` names what must not be torn apart. Both are whole characters,
    so that UTF-8 can hold them. ``place`` is ``file:line``. ``subset`` is what the file's name
    says: train, valid, test, or None.
    """

    turns: list
    group: str
    place: str
    subset: str | None

    @property
    def text(self):
        """The turns as one line, separated by tabs."""
        return "\t".join(self.turns)


def find_sources(sources, report):
    """Return the files of ``sources``, as :func:`..corpus.source_files.find_files` does."""
    return find_files(sources, _EXTENSIONS, report.ignored_files, gzipped=True)


def subset_by_name(path):
    """``train``, ``valid`` or ``test`` where a file's name begins so, else None."""
    word = re.match(r"(train|valid|dev|test)(?![a-z])", os.path.basename(path).lower())
    return word and word[1].replace("dev", "valid")


def _decompressed(raw):
    """A binary stream of ``raw``, or of what it holds if that is gzip."""
    return gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw


def _damaged(path, error):
    return UserError(f"{path}: damaged or incomplete gzip file ({error}); fetch it again")


def detect_format(path):
    """``(format, reason)`` of a file, by its content and where that is silent its name.

    Raises:
        UserError: it is none of the known formats.
    """
    try:
        with open(path, "rb") as raw:
            head = _decompressed(raw).read(_SNIFF_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    if is_tfrecord(head):
        return "tfrecord", "content begins with a checksum"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: UTF-16 text; dialogs are UTF-8, convert it (iconv -f UTF-16)")
    if b"\0" in head:
        raise UserError(f"{path}: neither text nor TFRecord (it holds null bytes)")
    name = path.lower().removesuffix(".gz")
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    first = next((line for line in lines if line.strip()), b"")
    if name.endswith((".json", ".jsonl")) or first.lstrip().startswith((b"{'", b'{"')):
        return _detect_json(path, lines)
    if name.endswith(".csv") or _columns(first.decode("utf-8", "replace").split(",")):
        return "csv", "columns Q and A"
    if name.endswith(".tsv"):
        return "tsv", "extension .tsv"
    if b"\t" in first:
        return "tsv", "a tab in the first line"
    return "lines", "plain text"


def _detect_json(path, lines):
    for line in lines:
        line = line.lstrip()
        if line.startswith(b"{'"):
            return "amazon", "Python dicts"
        if line.startswith(b'{"'):
            if b'"turns"' in line:
                return "conversations", 'JSON with "turns"'
            if b'"response"' in line or b'"context"' in line:
                return "polyai", 'JSON with "context"'
    raise UserError(
        f"{path}: JSON of no known kind: neither turns, nor context and response, nor Python "
        "dicts with question and answer, one a line; say --format if it is damaged"
    )


def read_dialogs(
    sources,
    report,
    cleaning=None,
    max_context_turns=DEFAULT_MAX_CONTEXT_TURNS,
    source_format=None,
    dedupe=False,
    on_bytes=None,
):
    """All dialogs of files and folders, cleaned, in a fixed order.

    Args:
        sources: paths.
        report: a :class:`~fairtale.data.dialog.records.DialogReport`, which is filled.
        cleaning: a :class:`~fairtale.data.dialog.cleaning.Cleaning`.
        max_context_turns: turns before the query that are kept.
        source_format: a key of :data:`READERS`; None lets each file be recognised by itself.
        dedupe: leave out, and count, dialogs whose exact turns came before.
        on_bytes: called with the number of bytes just read from disk.

    Yields:
        :class:`Dialog`.

    Raises:
        UserError: a source is missing, truncated, or not what its format says.
    """
    cleaning = cleaning or Cleaning()
    duplicates = DuplicateFilter() if dedupe else None
    for path in find_sources(sources, report):
        by_hand = (source_format, "--format") if source_format else None
        detected, reason = by_hand or detect_format(path)
        report.files.setdefault(detected, []).append((path, reason))
        subset = subset_by_name(path)
        for raw in _read_file(path, READERS[detected], report, on_bytes):
            group = whole_characters(raw.group)
            for turns, place in _exchanges(raw, cleaning, max_context_turns, report):
                dialog = Dialog(turns, group, place, subset)
                if duplicates and not duplicates.is_new(dialog):
                    report.leave_out(DUPLICATE, place)
                    continue
                report.num_kept += 1
                yield dialog


def _read_file(path, reader, report, on_bytes):
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


def _exchanges(raw, cleaning, max_context_turns, report):
    """``(turns, place)`` of every response in a raw dialog."""
    turns = [clean_turn(turn, cleaning) for turn in raw.turns]
    if not raw.every_turn:
        chosen = choose_turns(turns, cleaning, max_context_turns, raw.place, report)
        if chosen:
            yield chosen, raw.place
        return
    # A turn without words is no turn: the next one answers the one before it.
    spoken = [turn for turn in turns if turn]
    if len(spoken) < len(turns):
        report.mend(TURNS_DROPPED, raw.place, len(turns) - len(spoken))
    if len(spoken) < 2:
        report.leave_out(NO_RESPONSE, raw.place)
    for end in range(2, len(spoken) + 1):
        window = spoken[max(0, end - 2 - max_context_turns) : end]
        place = f"{raw.place} (turn {end})"
        chosen = choose_turns(window, cleaning, max_context_turns, place, report)
        if chosen:
            yield chosen, place


# ------------------------------------------------------------------------------ readers
# Each takes a binary stream, the file's name and the report, and yields RawDialog.


def read_lines(stream, name, report):
    """Documents of lines, each of which answers those before it."""
    turns, start = [], 1
    for line, text in read_text(stream, name, report):
        blank = not text.strip()
        if turns and (blank or len(turns) == _DOCUMENT_LINES):
            yield RawDialog(turns, "\n".join(turns[:_GROUP_LINES]), f"{name}:{start}", True)
            turns = []
        if not blank:
            start = start if turns else line
            turns.append(text)
    if turns:
        yield RawDialog(turns, "\n".join(turns[:_GROUP_LINES]), f"{name}:{start}", True)


def read_conversations(stream, name, report):
    """Conversations, one JSON object with ``turns`` (and maybe ``id``) a line."""
    for place, record in read_json_lines(stream, name, report):
        turns = record.get("turns")
        if not (isinstance(turns, list) and turns and all(isinstance(t, str) for t in turns)):
            report.skip(NO_TURNS, place)
            continue
        group = record.get("id")
        yield RawDialog(turns, turns[0] if group is None else str(group), place, True)


def read_tsv(stream, name, report):
    """Dialogs as turns separated by tabs; their group is the first turn."""
    for line, text in read_text(stream, name, report):
        if not text.strip():
            continue
        turns, place = text.split("\t"), f"{name}:{line}"
        if len(turns) > MAX_TURNS:
            report.skip(f"{TOO_MANY_TURNS}, over {MAX_TURNS}", place)
            continue
        yield RawDialog(turns, turns[0], place)


def read_csv(stream, name, report):
    """Pairs from the columns Q and A (or question and answer); their group is the question.

    Raises:
        UserError: the header lacks a column, or the file is not CSV.
    """
    end = 0  # the line that was read last

    def lines():
        nonlocal end
        for end, text in read_text(stream, name, report):  # noqa: B007
            yield text + "\n"

    rows = csv.reader(lines())
    columns = None
    while True:
        place = f"{name}:{end + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise UserError(f"{place}: not CSV ({error})") from None
        if row is None:
            break
        if columns is None:
            columns = _columns(row)
            if columns is None:
                raise UserError(f"{place}: no columns Q and A, or question and answer")
        elif any(row):
            if len(row) <= max(columns):
                report.skip(NO_COLUMN, place)
                continue
            question, answer = (row[column] for column in columns)
            yield RawDialog([question, answer], question, place)


def _columns(header):
    """The places of question and answer in a header, or None."""
    names = [name.strip().strip('"').lower() for name in header]
    places = [
        next((i for i, name in enumerate(names) if name in wanted), None)
        for wanted in (_QUESTION, _ANSWER)
    ]
    return None if None in places else places


READERS = {
    "amazon": read_amazon,
    "polyai": read_polyai_json,
    "tfrecord": read_polyai_tfrecord,
    "conversations": read_conversations,
    "csv": read_csv,
    "tsv": read_tsv,
    "lines": read_lines,
}
FORMATS = tuple(READERS)

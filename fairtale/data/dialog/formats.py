"""Read dialog corpora of all supported layouts, and yield cleaned dialogs, one per response.

:mod:`.layouts` lists the layouts and recognises them. Files may be compressed, and archives are
read without unpacking them to disk.

To add a format, describe it in ``layouts.FORMATS``, recognise it in ``layouts.find_layout``, and
add its reader to :data:`READERS`, or the fields of its records to ``shapes.py``.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..corpus.containers import ARCHIVES, PACKED, OnBytes, named_damage
from ..corpus.entities import has_markup, without_markup
from ..corpus.opening import look_at, open_files
from ..corpus.record_files import TABLE, read_record_file
from ..corpus.records import ByteStream
from ..corpus.report import DUPLICATE
from ..corpus.source_files import find_files
from ..corpus.split import DuplicateFilter
from ..corpus.tables import NO_COLUMN, read_rows
from .amazon import read_amazon
from .cleaning import (
    NO_RESPONSE,
    TURNS_DROPPED,
    Cleaning,
    choose_turns,
    clean_turn,
    whole_characters,
)
from .layouts import Layout, find_layout
from .polyai import read_polyai_tfrecord
from .records import MARKUP_KEPT, MARKUP_REMOVED, DialogReport, RawDialog
from .shapes import read_shape
from .subtitles import read_opus, read_subtitles
from .text_formats import read_eou, read_labelled, read_lines, read_tsv

_IN_ARCHIVES = (
    ".json", ".jsonl", ".ndjson", ".tsv", ".csv", ".txt", ".tfrecord", ".tfrecords", ".srt", ".vtt",
    ".xml",
)  # fmt: skip
_PACKED_IN_ARCHIVES = tuple(f"{name}{packed}" for name in _IN_ARCHIVES for packed in PACKED)
_EXTENSIONS = (*_IN_ARCHIVES, ".parquet", *ARCHIVES)
# Formats of subtitles and shops, whose texts have tags and entities.
_WITH_MARKUP = ("amazon", "polyai", "tfrecord", "subtitles", "opus")


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
    return find_files(sources, _EXTENSIONS, report.ignored_files, packed=PACKED)


def subset_by_name(path: str) -> str | None:
    """Return ``train``, ``valid`` or ``test`` if the name of a file begins with it, else None."""
    word = re.match(r"(train|valid|dev|test)(?![a-z])", os.path.basename(path).lower())
    return word[1].replace("dev", "valid") if word else None


def detect_format(path: str) -> tuple[str, str]:
    """Return the format of a file and the reason.

    Raises:
        UserError: its layout is not known.
    """
    layout = find_layout(look_at(path))
    return layout.format, layout.reason


def read_dialogs(
    sources: Iterable[str],
    report: DialogReport,
    cleaning: Cleaning = Cleaning(),  # noqa: B008 (it is immutable)
    *,
    source_format: str | None = None,
    fields: tuple[str, ...] = (),
    dedupe: bool = False,
    on_bytes: OnBytes | None = None,
) -> Iterator[Dialog]:
    """Read all dialogs of files and folders, clean them, and yield them in a fixed order.

    Args:
        sources: paths of files and folders.
        report: counts the dialogs that are kept and left out, and the repairs.
        cleaning: how turns are cleaned, and which dialogs are kept.
        source_format: format of all files, one of ``layouts.NAMES``; None recognises the format of
            each file.
        fields: names or numbers of the fields of records with the query and the response; none:
            see ``shapes.PAIRS``.
        dedupe: leave out dialogs whose exact turns have occurred before, and count them.
        on_bytes: called with the number of bytes that have just been read from disk.

    Raises:
        UserError: a source is missing or truncated, or its layout is not known.
    """
    duplicates = DuplicateFilter() if dedupe else None
    for path in find_sources(sources, report):
        subset = subset_by_name(path)
        with named_damage(path):
            for raw, is_marked_up in _read_path(path, report, source_format, fields, on_bytes):
                group = whole_characters(raw.group)
                raw = _markup_handled(raw, is_marked_up, cleaning, report)
                for turns, place in _exchanges(raw, cleaning, report):
                    dialog = Dialog(turns, group, place, subset)
                    if duplicates and not duplicates.is_new(dialog):
                        report.leave_out(DUPLICATE, place)
                        continue
                    report.num_kept += 1
                    yield dialog


def _read_path(
    path: str,
    report: DialogReport,
    source_format: str | None,
    fields: tuple[str, ...],
    on_bytes: OnBytes | None,
) -> Iterator[tuple[RawDialog, bool]]:
    """Yield the dialogs of a file or archive, and whether their format has tags and entities."""
    for file in open_files(path, (*_IN_ARCHIVES, *_PACKED_IN_ARCHIVES), report, on_bytes):
        layout = find_layout(file.head, source_format, fields)
        report.files.setdefault(layout.format, []).append((file.name, layout.reason))
        is_marked_up = layout.format in _WITH_MARKUP
        for raw in _read_layout(layout, file.stream, file.name, report):
            yield raw, is_marked_up


def _read_layout(
    layout: Layout, stream: ByteStream, name: str, report: DialogReport
) -> Iterator[RawDialog]:
    if layout.records is None:
        yield from READERS[layout.format](stream, name, report)
    elif layout.columns:
        yield from _read_columns(layout, stream, name, report)
    elif layout.shape is not None:
        records = read_record_file(layout.records, stream, name, report)
        yield from read_shape(layout.shape, records, report)


def _read_columns(
    layout: Layout, stream: ByteStream, name: str, report: DialogReport
) -> Iterator[RawDialog]:
    """Read the turns in some columns of a table without a header."""
    assert layout.records is not None and layout.records.encoding == TABLE
    assert layout.records.dialect is not None
    for row in read_rows(stream, name, report, layout.records.dialect):
        if len(row.cells) <= max(layout.columns):
            report.skip(NO_COLUMN, row.place, row.num_bytes, row.num_lines)
            continue
        turns = [row.cells[column] for column in layout.columns]
        yield RawDialog(turns, turns[0], row.place)


def _markup_handled(
    raw: RawDialog, is_marked_up: bool, cleaning: Cleaning, report: DialogReport
) -> RawDialog:
    """Remove tags and entities as ``cleaning`` says, or count that they are left."""
    if not any("<" in turn or "&" in turn or "{" in turn for turn in raw.turns):
        return raw
    wanted = is_marked_up if cleaning.clean_markup is None else cleaning.clean_markup
    if wanted:
        turns = [without_markup(turn) for turn in raw.turns]
        changed = sum(a != b for a, b in zip(turns, raw.turns))
        if changed:
            report.mend(MARKUP_REMOVED, raw.place, changed)
        return raw._replace(turns=turns)
    kept = sum(map(has_markup, raw.turns))
    if kept:
        report.mend(MARKUP_KEPT, raw.place, kept)
    return raw


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
    "tfrecord": read_polyai_tfrecord,
    "tsv": read_tsv,
    "eou": read_eou,
    "labelled": read_labelled,
    "subtitles": read_subtitles,
    "opus": read_opus,
    "lines": read_lines,
}

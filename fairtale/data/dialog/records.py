"""What the readers of dialog corpora share: records, their account, lines of text and of JSON."""

import json
from typing import NamedTuple

from ...errors import UserError
from ..corpus import records
from ..corpus.records import NUM_PLACES_NAMED, StoryReport

# Longer lines are passed over without being held; a shop's product with all its questions,
# the longest real record known, has well below one MiB.
MAX_RECORD_BYTES = 4 << 20

NOT_JSON = "not a JSON object"


class RawDialog(NamedTuple):
    """Turns as they stand in a corpus.

    ``turns``: oldest first. ``group`` names what must not be torn between train and test: a
    document, a conversation, a product. Both may hold surrogates, if escapes wrote them.
    ``place`` is ``file:line``. With ``every_turn`` each turn answers those before it; else only
    the last one is a response.
    """

    turns: list
    group: str
    place: str
    every_turn: bool = False


class DialogReport(StoryReport):
    """Counts of dialogs read, kept, left out and mended, with the first places of each kind.

    Args:
        strict: a damaged record is an error, not a counted skip. What the limits of
            :class:`Cleaning` leave out, and duplicates, are no damage.
    """

    def __init__(self, strict=False):
        super().__init__()
        self.strict_damage = strict

    def skip(self, kind, place):
        """Counts a damaged record.

        Raises:
            UserError: ``strict``.
        """
        if self.strict_damage:
            raise UserError(f"{place}: {kind}; --strict allows none (without it they are left out)")
        super().skip(kind, place)

    def leave_out(self, kind, place):
        """Counts a dialog that is whole, but not wanted."""
        super().skip(kind, place)

    def lines(self):
        """The report as lines of text: files, dialogs kept, left out, mended."""
        for source_format, files in self.files.items():
            name, reason = files[0]
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            yield f"read as {source_format} ({reason}): {name}{more}"
        if self.ignored_files:
            shown = ", ".join(self.ignored_files[:NUM_PLACES_NAMED])
            yield f"ignored, unknown extension: {len(self.ignored_files)} files (first: {shown})"
        left_out = sum(self.skipped.values())
        yield f"dialogs kept: {self.num_kept}, left out: {left_out}"
        for kind, count in self.skipped.items():
            yield f"left out, {kind}: {count} (first: {', '.join(self.places[kind])})"
        for kind, count in self.amounts.items():
            yield f"{kind}: {count} (first: {', '.join(self.places[kind])})"

    def as_dict(self):
        """The same for a JSON file."""
        return {
            "kept": self.num_kept,
            "left_out": dict(self.skipped),
            "mended": dict(self.amounts),
            "first_places": self.places,
            "files": {kind: len(files) for kind, files in self.files.items()},
            "ignored_files": len(self.ignored_files),
        }


def read_text(stream, name, report):
    """The lines of a text file, without those that are too long or not UTF-8, counted.

    Yields:
        ``(line number, text)``; empty lines included.
    """
    for line, record in records.read_records(stream, b"\n", MAX_RECORD_BYTES):
        record = records.without_byte_order_mark(line, record)
        if record is None:
            report.skip(records.TOO_LONG, f"{name}:{line}")
            continue
        text = records.decode(record, line, name, report)
        if text is not None:
            yield line, text.removesuffix("\r")


def read_json_lines(stream, name, report):
    """The objects of a file with one JSON object a line; other lines are counted.

    Yields:
        ``(place, dict)``.
    """
    for line, text in read_text(stream, name, report):
        if not text.strip():
            continue
        place = f"{name}:{line}"
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            yield place, record
        else:
            report.skip(NOT_JSON, place)

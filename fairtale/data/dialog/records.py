"""What the readers of dialog corpora share: a dialog as it stands there, the account of reading,
lines of text and of JSON.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..corpus.records import ByteStream, read_text_records
from ..corpus.report import CorpusReport

# Longer lines are passed over without being held; a shop's product with all its questions,
# the longest real record known, has well below one MiB.
MAX_RECORD_BYTES = 4 << 20

NOT_JSON = "not a JSON object"


class RawDialog(NamedTuple):
    """Turns as they stand in a corpus; both turns and group may hold surrogates."""

    turns: list[str]  # oldest first
    group: str  # what must not be torn between train and test: a document, a product
    place: str  # ``file:line``
    every_turn: bool = False  # each turn answers those before it, not only the last one


class DialogReport(CorpusReport):
    """Count dialogs read, kept, left out and mended, with the first places of each kind.

    Args:
        strict: a damaged record is an error, not a counted loss. What the limits of
            :class:`~fairtale.data.dialog.cleaning.Cleaning` leave out, and duplicates, are no
            damage.
    """

    lost = "left out"

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text: files, dialogs kept, left out, mended."""
        yield from self.file_lines()
        left_out = sum(self.skipped.values())
        yield f"dialogs kept: {self.num_kept}, left out: {left_out}"
        for kind, count in self.skipped.items():
            yield f"left out, {kind}: {count} (first: {', '.join(self.places[kind])})"
        for kind, count in self.amounts.items():
            yield f"{kind}: {count} (first: {', '.join(self.places[kind])})"

    def as_dict(self) -> dict[str, Any]:
        """Return the report for a JSON file."""
        return {
            "kept": self.num_kept,
            "left_out": dict(self.skipped),
            "mended": dict(self.amounts),
            **self.file_counts(),
        }


def read_text(stream: ByteStream, name: str, report: CorpusReport) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file but those that are too long or not UTF-8, which are counted.

    Yields:
        ``(line number, text)``; empty lines included.
    """
    for line, text in read_text_records(stream, b"\n", MAX_RECORD_BYTES, name, report):
        if text is not None:
            yield line, text.removesuffix("\r")


def read_json_lines(
    stream: ByteStream, name: str, report: CorpusReport
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file with one JSON object a line; lines that are none are counted.

    Yields:
        ``(place, object)``.
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

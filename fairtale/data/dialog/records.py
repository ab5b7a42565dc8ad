"""Types and functions shared by the readers of dialog corpora."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..corpus.records import ByteStream, read_text_records
from ..corpus.report import CorpusReport

# Longer lines are skipped without being held in memory. The longest known real record, an Amazon
# product with all its questions, has well below one MiB.
MAX_RECORD_BYTES = 4 << 20


# What is told of dialogs that are kept.
MARKUP_REMOVED = "turns whose tags and entities were removed"
MARKUP_KEPT = "turns with tags or entities left as they are (--markup clean removes them)"


class RawDialog(NamedTuple):
    """A dialog before cleaning; its turns and its group may hold surrogates."""

    turns: list[str]  # oldest first
    group: str  # a document or a product, whose dialogs must share a subset
    place: str  # ``file:line``
    every_turn: bool = False  # every turn is a response to those before it, not only the last


class DialogReport(CorpusReport):
    """Count the dialogs that are kept and left out, and the repairs, with the first places.

    Args:
        strict: raise an error for a damaged record instead of counting it. Duplicates, and
            dialogs outside the limits of :class:`~fairtale.data.dialog.cleaning.Cleaning`, are
            not damaged.
    """

    lost = "left out"

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text: files, dialogs kept and left out, repairs."""
        yield from self.file_lines()
        left_out = sum(self.skipped.values())
        yield f"dialogs kept: {self.num_kept}, left out: {left_out}"
        for kind, count in self.skipped.items():
            yield f"left out, {kind}: {count} (first: {', '.join(self.places[kind])})"
        for kind, count in self.amounts.items():
            yield f"{kind}: {count} (first: {', '.join(self.places[kind])})"
        yield from self.lost_line()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "kept": self.num_kept,
            "left_out": dict(self.skipped),
            "mended": dict(self.amounts),
            **self.file_counts(),
        }


def read_text(
    stream: ByteStream, name: str, report: CorpusReport
) -> Iterator[tuple[int, str | None]]:
    """Read the lines of a text file; count lines that are too long or not UTF-8.

    Yields:
        ``(line number, text)``, including empty lines; the text is None for a lost line, so that
        its neighbours are not taken for neighbours.
    """
    for line, text in read_text_records(stream, b"\n", MAX_RECORD_BYTES, name, report):
        yield line, None if text is None else text.removesuffix("\r")

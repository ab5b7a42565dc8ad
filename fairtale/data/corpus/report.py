"""Count the records of a corpus that are kept, left out and repaired, with examples.

This module imports only the standard library, so commands that only process text start fast.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ...errors import UserError

# Number of places that are reported for each kind of fault; further ones are only counted.
NUM_PLACES_NAMED = 3

# Reasons to leave out a record (a line, a story, a paragraph or a dialog).
EMPTY = "empty"
TOO_LONG = "too long"
INVALID_UTF8 = "invalid UTF-8"
DUPLICATE = "duplicate"
HELD_OUT = "also in valid or test"

# Repairs of a record that is kept.
CONTROL_CHARACTERS = "control characters removed"
LINE_BREAKS = "line breaks replaced by a space"


class CorpusReport(ABC):
    """Count the records that are kept, left out and repaired, with the first places of each kind.

    Args:
        strict: raise an error for a damaged record instead of counting it.
    """

    #: What happens to damaged records without ``strict``, for the error message.
    lost = "skipped"

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.num_kept = 0
        self.skipped: Counter[str] = Counter()  # kind -> records
        self.mended: Counter[str] = Counter()  # kind -> repaired records
        self.amounts: Counter[str] = Counter()  # kind -> repairs inside those records
        self.num_bytes = 0  # that were read, after decompression
        self.num_lines = 0
        self.damaged: Counter[str] = Counter()  # kind -> records that were lost
        self.lost_bytes: Counter[str] = Counter()  # kind -> their bytes, where known
        self.lost_lines: Counter[str] = Counter()  # kind -> their lines, where known
        self.places: dict[str, list[str]] = {}  # kind -> the first places, as "file:line"
        # format -> [(file, reason why the file has this format)]
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.ignored_files: list[str] = []

    def skip(self, kind: str, place: str, num_bytes: int = 0, num_lines: int = 1) -> None:
        """Count a damaged record, which is left out.

        Args:
            kind: what is wrong with the record.
            place: ``file:line``.
            num_bytes, num_lines: the size of the record in the file.

        Raises:
            UserError: the report is strict.
        """
        if self.strict:
            raise UserError(
                f"{place}: {kind}; --strict allows none (without it they are {self.lost})"
            )
        if kind == DUPLICATE:
            self.leave_out(kind, place)
        else:
            self.lose(kind, place, num_bytes, num_lines)

    def lose(self, kind: str, place: str, num_bytes: int = 0, num_lines: int = 1) -> None:
        """Count a record that cannot be used and is left out, also if the report is strict."""
        self.damaged[kind] += 1
        self.lost_bytes[kind] += num_bytes
        self.lost_lines[kind] += num_lines
        self.leave_out(kind, place)

    def leave_out(self, kind: str, place: str) -> None:
        """Count a record that is intact but not wanted, such as an empty one or a duplicate."""
        self.skipped[kind] += 1
        self._name(kind, place)

    def drop(self, kind: str, place: str) -> None:
        """Count a record as left out that was counted as kept."""
        self.num_kept -= 1
        self.leave_out(kind, place)

    def mend(self, kind: str, place: str, amount: int = 1) -> None:
        """Count ``amount`` repairs inside one record that is kept."""
        self.mended[kind] += 1
        self.amounts[kind] += amount
        if kind != LINE_BREAKS:  # nearly every story has line breaks, and they are no fault
            self._name(kind, place)

    @property
    def lost_share(self) -> float:
        """The share of the corpus that was lost, of its records or its bytes, in [0, 1]."""
        records = sum(self.damaged.values())
        shares = [records / (records + self.num_kept)] if records else [0.0]
        if self.num_bytes:
            shares.append(min(1.0, sum(self.lost_bytes.values()) / self.num_bytes))
        return max(shares)

    def lost_line(self) -> Iterator[str]:
        """Yield a line of text with the size of what was lost, if anything was."""
        if self.damaged:
            lines, size = sum(self.lost_lines.values()), sum(self.lost_bytes.values())
            yield (
                f"lost: {sum(self.damaged.values()):,} records, {lines:,} lines, {size:,} bytes "
                f"of {self.num_bytes:,} ({100 * self.lost_share:.1f} %)"
            )

    def _name(self, kind: str, place: str) -> None:
        named = self.places.setdefault(kind, [])
        if len(named) < NUM_PLACES_NAMED:
            named.append(place)

    def file_lines(self) -> Iterator[str]:
        """Yield lines of text that report how files were read and which were ignored."""
        for source_format, files in self.files.items():
            name, reason = files[0]
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            yield f"read as {source_format} ({reason}): {name}{more}"
        if self.ignored_files:
            shown = ", ".join(self.ignored_files[:NUM_PLACES_NAMED])
            yield f"ignored, unknown extension: {len(self.ignored_files)} files (first: {shown})"

    def file_counts(self) -> dict[str, Any]:
        """Return the first places of each kind and the numbers of files, as a JSON object."""
        return {
            "first_places": self.places,
            "bytes": self.num_bytes,
            "lost_bytes": dict(self.lost_bytes),
            "lost_lines": dict(self.lost_lines),
            "files": {kind: len(files) for kind, files in self.files.items()},
            "ignored_files": len(self.ignored_files),
        }

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""

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
        self.places: dict[str, list[str]] = {}  # kind -> the first places, as "file:line"
        # format -> [(file, reason why the file has this format)]
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.ignored_files: list[str] = []

    def skip(self, kind: str, place: str) -> None:
        """Count a damaged record, which is left out.

        Args:
            kind: what is wrong with the record.
            place: ``file:line``.

        Raises:
            UserError: the report is strict.
        """
        if self.strict:
            raise UserError(
                f"{place}: {kind}; --strict allows none (without it they are {self.lost})"
            )
        self.leave_out(kind, place)

    def leave_out(self, kind: str, place: str) -> None:
        """Count a record that is intact but not wanted, such as an empty one or a duplicate."""
        self.skipped[kind] += 1
        self._name(kind, place)

    def mend(self, kind: str, place: str, amount: int = 1) -> None:
        """Count ``amount`` repairs inside one record that is kept."""
        self.mended[kind] += 1
        self.amounts[kind] += amount
        if kind != LINE_BREAKS:  # nearly every story has line breaks, and they are no fault
            self._name(kind, place)

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
            "files": {kind: len(files) for kind, files in self.files.items()},
            "ignored_files": len(self.ignored_files),
        }

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""

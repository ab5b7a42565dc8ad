"""The account of reading a corpus: what was kept, left out and mended, and where it stands.

Nothing here needs more than the standard library, so commands that only handle text start at
once.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ...errors import UserError

# For each kind of fault so many places are named; the rest is counted.
NUM_PLACES_NAMED = 3

# Why a record (a line, a story, a paragraph, a dialog) is left out.
EMPTY = "empty"
TOO_LONG = "too long"
INVALID_UTF8 = "invalid UTF-8"
DUPLICATE = "duplicate"

# What is mended in a record that is kept.
CONTROL_CHARACTERS = "control characters removed"
LINE_BREAKS = "line breaks replaced by a space"


class CorpusReport(ABC):
    """Count what was read, left out and mended, with the first places of each kind.

    Args:
        strict: a damaged record is an error, not a counted loss.
    """

    #: What happens to damaged records without ``strict``, for the error.
    lost = "skipped"

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.num_kept = 0
        self.skipped: Counter[str] = Counter()  # kind -> records
        self.mended: Counter[str] = Counter()  # kind -> records touched
        self.amounts: Counter[str] = Counter()  # kind -> occurrences inside those records
        self.places: dict[str, list[str]] = {}  # kind -> the first places, as "file:line"
        # format -> [(file, how it was recognised)]
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.ignored_files: list[str] = []

    def skip(self, kind: str, place: str) -> None:
        """Count a damaged record, which is left out.

        Raises:
            UserError: ``strict``.
        """
        if self.strict:
            raise UserError(
                f"{place}: {kind}; --strict allows none (without it they are {self.lost})"
            )
        self.leave_out(kind, place)

    def leave_out(self, kind: str, place: str) -> None:
        """Count a record that is whole but not wanted, as an empty one or a duplicate."""
        self.skipped[kind] += 1
        self._name(kind, place)

    def mend(self, kind: str, place: str, amount: int = 1) -> None:
        """Count ``amount`` repairs inside one record that is kept."""
        self.mended[kind] += 1
        self.amounts[kind] += amount
        if kind != LINE_BREAKS:  # in nearly every story, and no fault
            self._name(kind, place)

    def _name(self, kind: str, place: str) -> None:
        named = self.places.setdefault(kind, [])
        if len(named) < NUM_PLACES_NAMED:
            named.append(place)

    def file_lines(self) -> Iterator[str]:
        """Yield lines of text that say how files were read and which were ignored."""
        for source_format, files in self.files.items():
            name, reason = files[0]
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            yield f"read as {source_format} ({reason}): {name}{more}"
        if self.ignored_files:
            shown = ", ".join(self.ignored_files[:NUM_PLACES_NAMED])
            yield f"ignored, unknown extension: {len(self.ignored_files)} files (first: {shown})"

    def file_counts(self) -> dict[str, Any]:
        """Return the first places and the numbers of files, for a JSON file."""
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
        """Return the report for a JSON file."""

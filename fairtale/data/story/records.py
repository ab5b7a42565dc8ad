"""What the readers of stories share: a story, and the account of reading."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..corpus.report import CorpusReport


class Story(NamedTuple):
    """A cleaned story."""

    text: str  # one line
    group: str | None  # what must not be torn apart (a book's chapter); None: it stands alone
    place: str  # ``file:line``


class StoryReport(CorpusReport):
    """Count stories read, kept, skipped and mended, with the first places of each kind.

    Args:
        strict: a story that is not UTF-8, too long or without a story field is an error, not
            a counted skip. Empty stories and duplicates are no damage.
    """

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text: files, stories kept, skipped, mended."""
        yield from self.file_lines()
        yield f"stories kept: {self.num_kept}"
        for kind, count in self.skipped.items():
            yield f"skipped, {kind}: {count} (first: {', '.join(self.places[kind])})"
        for kind, count in self.mended.items():
            places = ", ".join(self.places.get(kind, ()))
            first = f" (first: {places})" if places else ""
            yield f"{kind}: {self.amounts[kind]} in {count} stories{first}"

    def as_dict(self) -> dict[str, Any]:
        """Return the report for a JSON file."""
        return {
            "kept": self.num_kept,
            "skipped": dict(self.skipped),
            "mended_stories": dict(self.mended),
            "mended_occurrences": dict(self.amounts),
            **self.file_counts(),
        }

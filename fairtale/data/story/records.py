"""Types shared by the readers of stories: a story and the report of reading."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..corpus.report import CorpusReport

# What is told of stories that are kept.
MARKUP_REMOVED = "tags and entities removed"
MARKUP_KEPT = "tags or entities left as they are (--markup clean removes them)"


class Story(NamedTuple):
    """A cleaned story."""

    text: str  # one line
    group: str | None  # group whose stories share a subset, such as a chapter; None for no group
    place: str  # ``file:line``


class StoryReport(CorpusReport):
    """Count the stories that are kept and skipped, and the repairs, with the first places.

    Args:
        strict: raise an error for a story that is not UTF-8, too long or without a story field,
            instead of counting it. Empty stories and duplicates are not damaged.
    """

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text: files, stories kept and skipped, repairs."""
        yield from self.file_lines()
        yield f"stories kept: {self.num_kept}"
        for kind, count in self.skipped.items():
            yield f"skipped, {kind}: {count} (first: {', '.join(self.places[kind])})"
        for kind, count in self.mended.items():
            places = ", ".join(self.places.get(kind, ()))
            first = f" (first: {places})" if places else ""
            yield f"{kind}: {self.amounts[kind]} in {count} stories{first}"
        yield from self.lost_line()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "kept": self.num_kept,
            "skipped": dict(self.skipped),
            "mended_stories": dict(self.mended),
            "mended_occurrences": dict(self.amounts),
            **self.file_counts(),
        }

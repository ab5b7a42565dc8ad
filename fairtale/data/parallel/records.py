"""The report of reading parallel text."""

from collections.abc import Iterator
from typing import Any

from ..corpus.report import CorpusReport


class PairReport(CorpusReport):
    """Count the records of one file with both languages that are damaged."""

    lost = "left out"

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""
        for kind, count in self.damaged.items():
            yield f"left out, {kind}: {count} (first: {', '.join(self.places[kind])})"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {"damaged": dict(self.damaged), **self.file_counts()}

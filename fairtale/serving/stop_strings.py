"""End a text before the first of several strings, without showing a part of such a string."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Hold back the end of a text while it may be the beginning of a stop string.

    The result does not depend on the parts in which the text arrives: it ends before the string
    that is complete first, or before the longest one of several that are complete at the same
    character.

    Args:
        stops: strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Return the text that may be shown, and whether a stop string was found."""
        text = self._held + text
        ends = [
            (start + len(stop), start) for stop in self.stops if (start := text.find(stop)) >= 0
        ]
        if ends:
            self._held = ""
            return text[: min(ends)[1]], True
        held = max((self._begun(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def rest(self) -> str:
        """Return the text that was held back, when the text is complete."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """Return how many characters of ``stop`` the text ends with, without the whole of it."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                return length
        return 0

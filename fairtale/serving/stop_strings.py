"""End a growing text before the first of its stop strings, no part of which is ever shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Hold back what may become a stop string.

    Args:
        stop: the strings, none empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def add(self, part: str, may_end: bool = True) -> tuple[str, bool]:
        """Return the text that may be shown now, and whether a stop string has ended the text.

        The string that is complete first counts; of several, the one that begins first.

        Args:
            part: the text that is added.
            may_end: False: a stop string that is complete now is shown as text.
        """
        if not self._stop:
            return part, False
        text, shown = self._held + part, ""
        while found := self._first_in(text):
            begin, end = found
            if may_end:
                self._held = ""
                return shown + text[:begin], True
            shown, text = shown + text[:end], text[end:]
        keep = self._length_of_beginning(text)
        self._held = text[len(text) - keep :]
        return shown + text[: len(text) - keep], False

    def end(self) -> str:
        """Return what was held back, because the text ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_in(self, text: str) -> tuple[int, int] | None:
        """Return begin and end of the stop string that is complete first, or None."""
        places = [(text.find(stop), len(stop)) for stop in self._stop]
        ends = [(begin + size, begin) for begin, size in places if begin >= 0]
        if not ends:
            return None
        end, begin = min(ends)
        return begin, end

    def _length_of_beginning(self, text: str) -> int:
        """Return the length of the longest end of the text with which a stop string begins."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest

"""Decode a text token by token, in complete characters and in constant time per token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

_HALF = "\ufffd"  # what decoding makes of the bytes of an incomplete character
# A window that finds no end of a character is cut. UTF-8 synchronises itself: which bytes at the
# end are an incomplete character is seen from the last three bytes, hence tokens.
_LONGEST_WINDOW = 32
_KEPT = 8


class GrowingText:
    """The text that tokens add, in complete characters.

    Bytes of an incomplete character are held back until it is complete, or until the end. Only the
    last tokens are decoded again, those of the last part and of what has followed it. The first of
    them tells the decoder whether a space belongs before the new text.

    Args:
        decode: function that decodes a list of token ids to text.
        skip_space: leave out white space before the first word.
    """

    def __init__(self, decode: Callable[[list[int]], str], skip_space: bool = False) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = ""  # the part of the window's text that has been returned
        self._seen = 0  # number of tokens of the window that belong to that part
        self._is_before_text = skip_space

    def add(self, token: int) -> str:
        """Return the text that a token completes; it may be empty."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(_HALF):
            new = self._show(text)
            if new:  # the next window begins with the tokens of this part
                self._window = self._window[self._seen :]
                self._seen, self._shown = len(self._window), self._decode(self._window)
            return self._trimmed(new)
        new = self._show(text[:-1])
        if len(self._window) > _LONGEST_WINDOW:
            self._window, self._seen = self._window[-_KEPT:], 0
            self._shown = self._decode(self._window)[:-1]
        return self._trimmed(new)

    def end(self) -> str:
        """Return what was held back: bytes that are no character."""
        return self._trimmed(self._show(self._decode(self._window))) if self._window else ""

    def _show(self, text: str) -> str:
        """Return what the window's text has more than was shown of it."""
        if not text.startswith(self._shown):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new

    def _trimmed(self, part: str) -> str:
        if self._is_before_text:
            part = part.lstrip()
            self._is_before_text = not part
        return part


def text_as_it_grows(
    tokens: Iterable[int], decode: Callable[[list[int]], str], skip_space: bool = False
) -> Iterator[str]:
    """Yield the text that each token adds, in complete characters; see :class:`GrowingText`.

    Args:
        tokens: token ids.
        decode: function that decodes a list of token ids to text.
        skip_space: leave out white space before the first word.
    """
    text = GrowingText(decode, skip_space)
    for token in tokens:
        part = text.add(token)
        if part:
            yield part
    part = text.end()
    if part:
        yield part

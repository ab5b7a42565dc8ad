"""Texts and bytes of single tokens."""

from __future__ import annotations

from ..generation.row_sampling import TokenLogprobs
from .interface import TokenLogprob


class TokenNames:
    """Texts and bytes of single tokens, for their log-probabilities.

    Args:
        texts: the UTF-8 bytes of each token.
        symbols: the names of the tokens, shown for those that stand for no text.
    """

    def __init__(self, texts: list[bytes], symbols: list[str]) -> None:
        self._texts, self._symbols = texts, symbols

    def __call__(self, token: int) -> tuple[str, bytes]:
        """Return the text and the bytes of a token."""
        data = self._texts[token]
        return (data.decode(errors="replace") if data else self._symbols[token]), data

    def describe(self, token: int, found: TokenLogprobs) -> TokenLogprob:
        """Return what is reported of a chosen token."""
        top = tuple((*self(other), value) for other, value in found.top)
        return TokenLogprob(*self(token), found.logprob, top)

"""An accepted request of the engine, from its prompt to the last part of its text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..generation.growing_text import GrowingText
from ..generation.row_sampling import TextState, TokenLogprobs
from ..generation.streaming import Prefix
from .interface import Delta, FinishReason, TokenLogprob
from .stop_strings import StopStrings

logger = logging.getLogger(__name__)


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


class Row:
    """A request that waits, is read, or runs; also its ticket.

    Args:
        prefix: the prompt.
        state: what the choice of tokens depends on.
        text: the text so far.
        stop: its stop strings.
        max_tokens: number of tokens after which the text ends.
        deliver: takes the parts of the text.
        wake: called when the request is cancelled.
    """

    def __init__(
        self,
        prefix: Prefix,
        state: TextState,
        text: GrowingText,
        stop: StopStrings,
        max_tokens: int,
        deliver: Callable[[Delta], None],
        wake: Callable[[], None],
    ) -> None:
        self.prefix, self.state, self.max_tokens = prefix, state, max_tokens
        self._text, self._stop, self._deliver, self._wake = text, stop, deliver, wake
        net_input = prefix.net_input
        self.prefix_length = net_input["src_tokens"].size(1)
        first = net_input.get("next_positions")
        self._first_position = self.prefix_length if first is None else int(first[0])
        segments = net_input.get("next_segments")
        self.segment = None if segments is None else int(segments[0])
        self.num_read = 0  # tokens of the prompt in the cache
        self.is_cancelled = self.is_broken = False
        self._ended = threading.Lock()  # held from the last part on

    # ----------------------------------------------------------------- the ticket

    @property
    def prompt_tokens(self) -> int:
        """Return the number of tokens of the prompt, without the BOS token."""
        return self.prefix_length - 1

    def cancel(self) -> None:
        """Free the place of the request at the next step."""
        self.is_cancelled = True
        self._wake()

    # ------------------------------------------------------------------ the engine

    @property
    def cost(self) -> int:
        """Return the number of tokens of the prompt and of the longest possible text."""
        return self.prefix_length + self.max_tokens

    @property
    def has_ended(self) -> bool:
        """Return whether the last part was delivered."""
        return self._ended.locked()

    @property
    def length(self) -> int:
        """Return the number of tokens in the cache; the newest token is not in it yet."""
        return self.num_read + max(len(self.state.tokens) - 1, 0)

    @property
    def position(self) -> int:
        """Return the position of the newest token."""
        return self._first_position + len(self.state.tokens) - 1

    def take(self, token: int, names: TokenNames, found: TokenLogprobs | None) -> None:
        """Add the chosen token to the text, and deliver the part that it completes.

        Args:
            token: the token; -1 if the model's output is not a number.
            names: the texts of tokens.
            found: the log-probabilities to report, or None.
        """
        if token < 0:
            self.is_broken = True
            self.end("error", "the model's output is not a number: the checkpoint is damaged")
        elif token == self.state.eos:
            self._complete("", 1, ())
        else:
            self.state.append(token)
            count = len(self.state.tokens)
            part, stopped = self._stop.add(
                self._text.add(token), may_end=count >= self.state.options.min_tokens
            )
            logprobs = () if found is None else (names.describe(token, found),)
            if stopped:
                self.end("stop", None, part, 1, logprobs)
            elif count >= self.max_tokens:
                self._complete(part, 1, logprobs, "length")
            else:
                self._send(Delta(part, 1, logprobs))

    def _complete(
        self,
        part: str,
        count: int,
        logprobs: tuple[TokenLogprob, ...],
        reason: FinishReason = "stop",
    ) -> None:
        """End the text with what was held back of it."""
        rest, stopped = self._stop.add(self._text.end())
        if stopped:
            reason = "stop"
        else:
            rest += self._stop.end()
        self.end(reason, None, part + rest, count, logprobs)

    def end(
        self,
        reason: FinishReason,
        error: str | None = None,
        part: str = "",
        count: int = 0,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        """Deliver the last part; does nothing if one was delivered."""
        if self._ended.acquire(blocking=False):
            self._send(Delta(part, count, logprobs, reason, error))

    def _send(self, delta: Delta) -> None:
        try:
            self._deliver(delta)
        except Exception:  # whoever receives the text is no reason to end the texts of others
            logger.exception("a part of a text could not be delivered; its request is cancelled")
            self.is_cancelled = True

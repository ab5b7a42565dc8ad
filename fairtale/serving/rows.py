"""An accepted request of the engine, from its prompt to the last part of its text."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..generation.growing_text import GrowingText
from ..generation.row_sampling import TextState, TokenLogprobs
from ..generation.streaming import Prefix
from .delivery import Delivery
from .interface import Delta, FinishReason, TokenLogprob
from .prompt_logprobs import PromptLogprobs
from .stop_strings import StopStrings
from .token_names import TokenNames


class Row(Delivery):
    """A request that waits, is read, or runs.

    Args:
        prefix: the prompt.
        state: what the choice of tokens depends on.
        text: the text so far.
        stop: its stop strings.
        max_tokens: number of tokens after which the text ends; 0 to read the prompt only.
        deliver: takes the parts of the text.
        wake: called when the request is cancelled.
        prompt_top: report the log-probabilities of the prompt's tokens, and at each of them of this
            many of the most probable ones; None to report nothing.
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
        prompt_top: int | None = None,
    ) -> None:
        super().__init__(deliver)
        self.prefix, self.state, self.max_tokens = prefix, state, max_tokens
        self._text, self._stop, self._wake = text, stop, wake
        net_input = prefix.net_input
        tokens: list[int] = net_input["src_tokens"][0].tolist()
        self._of_prompt = None if prompt_top is None else PromptLogprobs(tokens, prompt_top)
        self.prefix_length = len(tokens)
        first = net_input.get("next_positions")
        self._first_position = self.prefix_length if first is None else int(first[0])
        segments = net_input.get("next_segments")
        self.segment = None if segments is None else int(segments[0])
        self.num_read = 0  # tokens of the prompt in the cache
        self.is_broken = False

    # ----------------------------------------------------------------- the ticket

    @property
    def prompt_tokens(self) -> int:
        """Return the number of tokens of the prompt, without the BOS token."""
        return self.prefix_length - 1

    def cancel(self) -> None:
        """End the request at the next step, which comes at once."""
        super().cancel()
        self._wake()

    # ------------------------------------------------------------------ the engine

    @property
    def cost(self) -> int:
        """Return the number of tokens of the prompt and of the longest possible text."""
        return self.prefix_length + self.max_tokens

    @property
    def length(self) -> int:
        """Return the number of tokens in the cache; the newest token is not in it yet."""
        return self.num_read + max(len(self.state.tokens) - 1, 0)

    @property
    def position(self) -> int:
        """Return the position of the newest token."""
        return self._first_position + len(self.state.tokens) - 1

    @property
    def needs_all_features(self) -> bool:
        """Return whether :meth:`take_prompt` needs the features of every token of the prompt."""
        return self._of_prompt is not None

    def take_prompt(
        self,
        features: Tensor,
        is_last: bool,
        logits_of: Callable[[Tensor], Tensor],
        names: TokenNames,
    ) -> None:
        """Take what was read of the prompt; deliver its log-probabilities behind the last part.

        Args:
            features: [t, C]; see :attr:`needs_all_features`.
            is_last: whether the prompt ends with them.
            logits_of: returns the logits [n, V] of features [n, C].
            names: the texts of tokens.
        """
        if self._of_prompt is None:
            return
        self._of_prompt.add(features, logits_of, names)
        if is_last:
            self.send(Delta("", 0, prompt=tuple(self._of_prompt.found)))

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
        elif not self.max_tokens:
            self.end("length")
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
                self.send(Delta(part, 1, logprobs, "stop"))
            elif count >= self.max_tokens:
                self._complete(part, 1, logprobs, "length")
            else:
                self.send(Delta(part, 1, logprobs))

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
        self.send(Delta(part + rest, count, logprobs, reason))

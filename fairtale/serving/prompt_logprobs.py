"""Collect the log-probabilities of a prompt's tokens while the prompt is read."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..generation.row_sampling import token_logprobs
from .interface import TokenLogprob
from .token_names import TokenNames

_AT_ONCE = 64  # positions whose logits are in memory at the same time


class PromptLogprobs:
    """The log-probabilities of a prompt's tokens, as far as it is read.

    They are those of the model itself, which may predict any token. The first token, which the
    prompt begins with and which OpenAI's format gives no probability, has None.

    Args:
        tokens: the prompt, with the BOS token.
        top: number of the most probable tokens to report at each position.
    """

    def __init__(self, tokens: list[int], top: int) -> None:
        self._tokens, self._top = tokens, top
        self._num_read = 0
        self.found: list[TokenLogprob] = []

    def add(
        self, features: Tensor, logits_of: Callable[[Tensor], Tensor], names: TokenNames
    ) -> None:
        """Take what the model knows after each of the next tokens of the prompt.

        Args:
            features: [t, C], of the next t tokens.
            logits_of: returns the logits [n, V] of features [n, C].
            names: the texts of tokens.
        """
        first = self._num_read + 1
        self._num_read += len(features)
        predicted = self._tokens[first : first + len(features)]  # the last one predicts the text
        for start in range(0, len(predicted), _AT_ONCE):
            part = predicted[start : start + _AT_ONCE]
            logits = logits_of(features[start : start + len(part)])
            for token, found in zip(part, token_logprobs(logits, part, self._top)):
                self.found.append(names.describe(token, found))
        if first == 1 and self.found:
            self.found[0] = self.found[0]._replace(logprob=None, top=())

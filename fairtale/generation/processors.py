"""Define processors, which change the log-probabilities of the next token during generation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..modules.ngram_blocking import block_ngrams_of

logger = logging.getLogger(__name__)


class PrefixTokens(Protocol):
    """The prompts of B sentences, each of which K rows continue (R = B * K)."""

    @property
    def context(self) -> Tensor:
        """Return the tokens before truncation, int64 [B, S'], padded at the right."""
        ...

    def per_row(self, x: Tensor) -> Tensor:
        """Repeat each prompt's entry for its rows, [B, ...] -> [R, ...]."""
        ...


class Processor(Protocol):
    """Change the log-probabilities of the next tokens of R = B * K rows."""

    def __call__(self, lprobs: Tensor, tokens: Tensor, prefix: PrefixTokens) -> Tensor:
        """Return the changed log-probabilities [R, V].

        Args:
            lprobs: log-probabilities of the next token, fp32 [R, V].
            tokens: the initial EOS token and the t generated tokens, int64 [R, 1 + t].
            prefix: the prompts.
        """
        ...


class ContextNgramBlock:
    """Forbid n-grams that occur in the context (``--block-context-ngram``).

    Turns that the limits have cut, so that the model does not read them, are part of the context.

    Args:
        size: n, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, lprobs: Tensor, tokens: Tensor, prefix: PrefixTokens) -> Tensor:
        """Change the log-probabilities [R, V] of what follows ``tokens`` [R, 1 + t]."""
        context = prefix.per_row(prefix.context)
        return block_ngrams_of(context, tokens[:, 1:], lprobs, self.size)


class WordSteering:
    """Raise the probability of the words of a topic (``--steer-words``, ``--steer-weight``).

    The weight is added to the logits of the tokens that write a word of the list, and the
    distribution is renormalised, so p'(w) is proportional to p(w) * exp(weight). Of a word of
    several tokens, the first one is often the beginning of many other words, or a word itself: it
    is raised by the share ``BEGIN`` of the weight, and only until the text has it once. As long as
    a word is begun, only what continues it is raised. A word is not raised once the text has it.

    Source: weighted decoding (Ghazvininejad et al. 2017; See et al. 2019). The bag-of-words variant
    of PPLM (Dathathri et al. 2020) changes the hidden states by gradients instead. It is ten times
    slower, and its effect depends on the model. Weighted decoding is exact, batched and compatible
    with beam search.

    Args:
        words: tokens of each word; no word is empty.
        weight: added to the logits; 0 changes nothing.
    """

    BEGIN = 0.5

    def __init__(self, words: list[list[int]], weight: float) -> None:
        by_length: dict[int, list[list[int]]] = {}
        for word in words:
            by_length.setdefault(len(word), []).append(word)
        self.words = [torch.tensor(group) for group in by_length.values()]  # each [W, m]
        self.weight = weight

    def __call__(self, lprobs: Tensor, tokens: Tensor, prefix: PrefixTokens) -> Tensor:
        """Change the log-probabilities [R, V] of what follows ``tokens`` [R, 1 + t]."""
        written = tokens[:, 1:]
        whole, begin, go_on = (torch.zeros_like(lprobs) for _ in range(3))  # votes for tokens
        for words in self.words:
            words = words.to(tokens.device)
            length = words.size(1)
            fresh = ~(written.unsqueeze(2) == words[:, 0]).any(1)  # [R, W]: no first token
            _vote(whole if length == 1 else begin, words[:, 0], fresh)
            unused = ~_contains(written, words)
            for done in range(1, min(length, written.size(1) + 1)):
                begun = written[:, None, written.size(1) - done :] == words[:, :done]
                _vote(go_on, words[:, done], begun.all(-1) & unused)
        shares = torch.where(whole > 0, 1.0, (begin > 0) * self.BEGIN)
        going_on = (go_on > 0).any(1, keepdim=True)
        shares = torch.where(going_on, (go_on > 0).to(shares.dtype), shares)
        return (lprobs + self.weight * shares).log_softmax(-1)


def _contains(written: Tensor, words: Tensor) -> Tensor:
    """Return which of the words [W, m] the rows [R, t] contain, bool [R, W]."""
    if written.size(1) < words.size(1):
        return torch.zeros(len(written), len(words), dtype=torch.bool, device=words.device)
    windows = written.unfold(1, words.size(1), 1).unsqueeze(2)  # [R, t - m + 1, 1, m]
    return (windows == words).all(-1).any(1)


def _vote(votes: Tensor, tokens: Tensor, chosen: Tensor) -> None:
    """Add 1 to the votes [R, V] for the tokens [W] of the words that are chosen, bool [R, W]."""
    votes.scatter_add_(1, tokens.expand(len(votes), -1), chosen.to(votes.dtype))


def read_word_bag(
    path: str, encode: Callable[[str], Iterable[int]], unknown: int
) -> list[list[int]]:
    """Read the words of a topic from a file, and return the tokens of each word.

    Words with unknown tokens are left out, with a warning.

    Args:
        path: text file in UTF-8, one word on each line.
        encode: function that encodes a word as tokens.
        unknown: the unknown token of the dictionary.

    Raises:
        UserError: the file is missing, is not valid UTF-8, or contains no word that can be encoded
            without unknown tokens.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            words = [line.strip() for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--steer-words {path}: {error}") from None
    tokens = {word: list(encode(word)) for word in words if word}
    if not any(tokens.values()):
        raise UserError(f"--steer-words {path}: contains no words; write one word on each line")
    strange = [word for word, spelled in tokens.items() if unknown in spelled]
    if strange:
        shown = ", ".join(strange[:5])
        logger.warning("--steer-words %s: not in the dictionary, left out: %s", path, shown)
    bag = [spelled for word, spelled in tokens.items() if spelled and word not in strange]
    if not bag:
        raise UserError(f"--steer-words {path}: all of its words have unknown tokens")
    return bag

"""Processors, which change the next token's probabilities while a text is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..modules.ngram_blocking import block_ngrams_of

if TYPE_CHECKING:  # fairseq is imported after ``plugin.register`` has cured it
    from ..modules.prefix_encoder_decoder import PrefixEncoderOut

logger = logging.getLogger(__name__)


class Processor(Protocol):
    """Change the log-probabilities of the next tokens of R = B * K rows."""

    def __call__(self, lprobs: Tensor, tokens: Tensor, prefix: PrefixEncoderOut) -> Tensor:
        """Return the changed log-probabilities [R, V].

        Args:
            lprobs: of the tokens that may follow, fp32 [R, V].
            tokens: what is written, after the end mark it begins with, int64 [R, 1 + t].
            prefix: what the encoder has read.
        """
        ...


class ContextNgramBlock:
    """Let a text repeat no n-gram of its context (``--block-context-ngram``).

    Args:
        size: n, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, lprobs: Tensor, tokens: Tensor, prefix: PrefixEncoderOut) -> Tensor:
        """Change the log-probabilities [R, V] of what follows ``tokens`` [R, 1 + t]."""
        context = prefix.per_row(prefix.tokens)
        return block_ngrams_of(context, tokens[:, 1:], lprobs, self.size)


class WordSteering:
    """Raise the probability of a topic's words (``--steer-words``, ``--steer-weight``).

    The weight is added to the logit of every token that begins a word of the bag or continues
    one that the reply has begun, and the distribution is renormalised: p'(w) is
    proportional to p(w) * exp(weight). A word is no longer raised once the reply contains it.

    Source: weighted decoding (Ghazvininejad et al. 2017; See et al. 2019). PPLM's bag of words
    (Dathathri et al. 2020) moves the hidden states by gradients instead: ten times slower, and
    its strength depends on the model; this one is exact, batched and works with beams.

    Args:
        words: tokens of each word, none empty.
        weight: added to the logits; 0 changes nothing.
    """

    def __init__(self, words: list[list[int]], weight: float) -> None:
        by_length: dict[int, list[list[int]]] = {}
        for word in words:
            by_length.setdefault(len(word), []).append(word)
        self.words = [torch.tensor(group) for group in by_length.values()]  # each [W, m]
        self.weight = weight

    def __call__(self, lprobs: Tensor, tokens: Tensor, prefix: PrefixEncoderOut) -> Tensor:
        """Change the log-probabilities [R, V] of what follows ``tokens`` [R, 1 + t]."""
        written = tokens[:, 1:]
        raised = torch.zeros_like(lprobs, dtype=torch.bool)
        for words in self.words:
            words = words.to(tokens.device)
            count, length = words.shape
            unused = torch.ones(len(written), count, dtype=torch.bool, device=tokens.device)
            if written.size(1) >= length:
                windows = written.unfold(1, length, 1).unsqueeze(2)  # [R, t - m + 1, 1, m]
                unused = ~(windows == words).all(-1).any(1)  # [R, W]
            for done in range(min(length, written.size(1) + 1)):
                begun = written[:, None, written.size(1) - done :] == words[:, :done]
                next_ones = begun.all(-1) & unused  # [R, W]
                votes = torch.zeros_like(lprobs)
                votes.scatter_add_(
                    1, words[:, done].expand(len(written), -1), next_ones.to(lprobs.dtype)
                )
                raised |= votes > 0
        return (lprobs + self.weight * raised).log_softmax(-1)


def read_word_bag(
    path: str, encode: Callable[[str], Iterable[int]], unknown: int
) -> list[list[int]]:
    """Read the words of a topic, one a line, and return the tokens of each.

    Words that the dictionary cannot spell are left out, with a warning.

    Args:
        path: a file in UTF-8.
        encode: turns a word into tokens.
        unknown: the token of what the dictionary lacks.

    Raises:
        UserError: the file is missing, is not text or contains no word that can be spelled.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            words = [line.strip() for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--steer-words {path}: {error}") from None
    tokens = {word: list(encode(word)) for word in words if word}
    if not any(tokens.values()):
        raise UserError(f"--steer-words {path}: no word in it; write one a line")
    strange = [word for word, spelled in tokens.items() if unknown in spelled]
    if strange:
        shown = ", ".join(strange[:5])
        logger.warning("--steer-words %s: not in the dictionary, left out: %s", path, shown)
    bag = [spelled for word, spelled in tokens.items() if spelled and word not in strange]
    if not bag:
        raise UserError(f"--steer-words {path}: the dictionary can spell none of its words")
    return bag

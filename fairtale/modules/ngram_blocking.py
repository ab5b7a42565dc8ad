"""Forbid n-grams that already occur in a hypothesis or in its context."""

import math

import torch
from torch import Tensor


def block_repeated_ngrams(tokens: Tensor, lprobs: Tensor, size: int) -> Tensor:
    """Set the log-probability of next tokens that would repeat an n-gram of ``tokens`` to -inf.

    Source: Paulus et al. 2017, section 2.5 (trigram avoidance). All rows and positions are compared
    at once, on the device of the tensors. Deviation: a row in which no token would remain, for
    example because ``--prefix-size`` forces a repetition, is not changed.

    Args:
        tokens: the hypotheses so far, without padding, int64 [R, t]; R = B * K.
        lprobs: log-probabilities of the next token [R, V].
        size: n, at least 1.

    Returns:
        The changed log-probabilities [R, V].
    """
    return block_ngrams_of(tokens, tokens, lprobs, size)


def block_ngrams_of(text: Tensor, tokens: Tensor, lprobs: Tensor, size: int) -> Tensor:
    """Set the log-probability of next tokens that would complete an n-gram of ``text`` to -inf.

    A row in which no token would remain is not changed.

    Args:
        text: int64 [R, S]. Padding in it can forbid only the padding token.
        tokens: the hypotheses so far, without padding, int64 [R, t].
        lprobs: log-probabilities of the next token [R, V].
        size: n, at least 1.

    Returns:
        The changed log-probabilities [R, V].
    """
    length = tokens.size(1)
    if text.size(1) < size or length < size - 1:
        return lprobs
    ngrams = text.unfold(1, size, 1)  # [R, S - n + 1, n]
    # the last n - 1 tokens, which the next token extends to an n-gram
    current = tokens[:, length - size + 1 :].unsqueeze(1)  # [R, 1, n - 1]
    repeated = (ngrams[:, :, : size - 1] == current).all(-1)  # [R, S - n + 1]
    penalty = lprobs.new_zeros(repeated.shape).masked_fill_(repeated, -math.inf)
    blocked = lprobs.scatter_add(1, ngrams[:, :, -1], penalty)
    nothing_left = blocked.amax(1, keepdim=True) == -math.inf
    return torch.where(nothing_left, lprobs, blocked)

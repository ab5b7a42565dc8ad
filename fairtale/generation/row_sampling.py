"""Choose the next tokens of many texts at once, each with its own options and random numbers.

The choice for a row depends on the row's logits, options and random number only. Rows with plain
options do not pay for the options of others: work that only some rows ask for is done for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .processors import PrefixTokens, Processor

_DRAWS = 32  # random numbers that a row draws at a time
MAX_LOGPROBS = 20  # number of the most probable tokens that can be reported
# How many of the most probable tokens are sorted at first. Most nuclei need no more, and sorting
# a whole vocabulary takes longer than the step of a small model.
_SORTED = 64
_COLDEST = 1e-30  # least temperature: practically 0, but its inverse is finite in fp32
_BLOCK = 64  # tokens whose probabilities are added up before they are searched


@dataclass(frozen=True)
class RowOptions:
    """Options of one text.

    Args:
        min_tokens: the end mark is impossible before so many tokens.
        temperature: divisor of the logits; 0 is greedy.
        top_p: probability of the nucleus among what ``top_k`` leaves, in (0, 1]; 1 is off.
        top_k: number of the most probable tokens to choose from; 0 or less is off.
        repetition_penalty: divides positive and multiplies negative logits of the tokens of the
            prompt and the text (Keskar et al. 2019, section 4.1); 1 is off.
        logit_bias: token -> number added to its logit.
        logprobs: number of the most probable tokens to report, at most ``MAX_LOGPROBS``; None to
            report nothing.
    """

    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None


class TextState:
    """What the choice of the next token of a text depends on, besides the logits.

    Args:
        options: options of the text.
        seed: seed of its random numbers; the number of a token depends on the seed and on the
            position of the token in the text only.
        context: tokens of the prompt before truncation.
        eos: the token that ends the text.
    """

    def __init__(self, options: RowOptions, seed: int, context: Sequence[int], eos: int) -> None:
        self.options, self.eos = options, eos
        self.context = list(context)
        self.tokens: list[int] = []  # what has been written
        self._seen = dict.fromkeys(context)  # a set with an order
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._draws: list[float] = []

    def draw(self) -> float:
        """Return the next random number of the text, uniform in [0, 1)."""
        if not self._draws:
            numbers = torch.rand(
                _DRAWS, generator=self._generator, dtype=torch.float64, device="cpu"
            )
            self._draws = numbers.tolist()[::-1]
        return self._draws.pop()

    def append(self, token: int) -> None:
        """Add a token to the text."""
        self.tokens.append(token)
        self._seen[token] = None

    @property
    def seen(self) -> list[int]:
        """Return the different tokens of the prompt and the text."""
        return list(self._seen)


class TokenLogprobs(NamedTuple):
    """Log-probabilities at one position of a text, before temperature, top-k and top-p."""

    logprob: float  # of the chosen token
    top: list[tuple[int, float]]  # the most probable tokens


class Choices(NamedTuple):
    """The next tokens of the rows of a batch, on the host."""

    tokens: list[int]  # -1 for a row whose logits are not numbers
    logprobs: dict[int, TokenLogprobs]  # by the number of the row; only those that ask for it


class _RowPrefix(NamedTuple):
    """The prompt of one row, for processors."""

    context: Tensor  # int64 [1, S']

    def per_row(self, x: Tensor) -> Tensor:
        return x


def choose_rows(
    logits: Tensor,
    texts: Sequence[TextState],
    forbidden: Sequence[int] = (),
    processors: Sequence[Processor] = (),
) -> Choices:
    """Choose the next token of each row, and copy the choices to the host at once.

    Args:
        logits: fp32 [R, V]; changed in place.
        texts: the texts of the rows.
        forbidden: tokens that no text may contain.
        processors: change the log-probabilities of each row after the temperature, in this order.
    """
    _adjust(logits, texts, forbidden)
    peak = logits.amax(1, keepdim=True)
    drawing = [i for i, text in enumerate(texts) if text.options.temperature > 0]
    if processors or drawing:
        heat = [t.options.temperature or 1.0 for t in texts]
        if any(value != 1 for value in heat):
            shifted = divide_by_temperature(logits, logits.new_tensor(heat).unsqueeze(1))
        else:
            shifted = logits
        if processors:
            shifted = _process(shifted, texts, processors)
        tokens = shifted.argmax(1) if len(drawing) < len(texts) else logits.new_empty(0)
        if drawing:
            everything = len(drawing) == len(texts)
            rows = None if everything else torch.tensor(drawing, device=logits.device)
            drawn = choose_tokens(
                shifted if rows is None else shifted.index_select(0, rows),
                [texts[i].options.top_k for i in drawing],
                [texts[i].options.top_p for i in drawing],
                [texts[i].draw() for i in drawing],
            )
            tokens = drawn if rows is None else tokens.index_copy(0, rows, drawn)
    else:
        tokens = logits.argmax(1)
    tokens = tokens.masked_fill(~peak.squeeze(1).isfinite(), -1)
    asking = [i for i, text in enumerate(texts) if text.options.logprobs is not None]
    if not asking:
        return Choices(tokens.tolist(), {})
    return _with_logprobs(logits, tokens, texts, asking)


def divide_by_temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return logits [R, V], less their maximum, divided by the temperature.

    Subtracting the maximum first keeps the most probable token finite at any temperature.

    Args:
        logits: [R, V]; the greatest of each row is finite.
        temperature: above 0; for all rows, or [R, 1].
    """
    if not isinstance(temperature, Tensor):
        temperature = max(temperature, _COLDEST)
    else:
        temperature = temperature.clamp(min=_COLDEST)
    return (logits - logits.amax(1, keepdim=True)) / temperature


def _adjust(logits: Tensor, texts: Sequence[TextState], forbidden: Sequence[int]) -> None:
    """Apply what changes logits before the temperature, in place."""
    if forbidden:
        logits[:, list(forbidden)] = -torch.inf
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for i, text in enumerate(texts):
        if text.options.repetition_penalty != 1:
            seen = text.seen
            rows += [i] * len(seen)
            columns += seen
            values += [text.options.repetition_penalty] * len(seen)
    if rows:
        index = torch.tensor([rows, columns], device=logits.device).unbind(0)
        penalty, old = logits.new_tensor(values), logits[index]
        logits[index] = torch.where(old > 0, old / penalty, old * penalty)
    rows, columns, values = [], [], []
    for i, text in enumerate(texts):
        if text.options.logit_bias:
            rows += [i] * len(text.options.logit_bias)
            columns += text.options.logit_bias.keys()
            values += text.options.logit_bias.values()
        if len(text.tokens) < text.options.min_tokens:
            rows.append(i)
            columns.append(text.eos)
            values.append(-math.inf)
    if rows:
        index = torch.tensor([rows, columns], device=logits.device).unbind(0)
        logits.index_put_(index, logits.new_tensor(values), accumulate=True)


def _process(scores: Tensor, texts: Sequence[TextState], processors: Sequence[Processor]) -> Tensor:
    """Apply processors row by row, because texts have different lengths; return fp32 [R, V]."""
    lprobs, rows = scores.log_softmax(1), []
    for i, text in enumerate(texts):
        row = lprobs[i : i + 1]
        tokens = torch.tensor([[text.eos, *text.tokens]], device=scores.device)
        prefix: PrefixTokens = _RowPrefix(torch.tensor([text.context], device=scores.device))
        for process in processors:
            row = process(row, tokens, prefix)
        rows.append(row)
    return torch.cat(rows)


def _with_logprobs(
    logits: Tensor, tokens: Tensor, texts: Sequence[TextState], asking: Sequence[int]
) -> Choices:
    """Return the choices with log-probabilities of those rows that ask for them."""
    rows = torch.tensor(asking, device=logits.device)
    lprobs = logits.index_select(0, rows).double().log_softmax(1)
    chosen = tokens.index_select(0, rows).clamp(min=0).unsqueeze(1)
    # always the same number of tokens: ties are not to depend on what other rows ask for
    values, best = lprobs.topk(min(MAX_LOGPROBS, lprobs.size(1)))
    parts = [tokens.double(), lprobs.gather(1, chosen).flatten(), values.flatten()]
    numbers = torch.cat([*parts, best.double().flatten()]).tolist()  # one transfer
    count, num, k = tokens.numel(), len(asking), values.size(1)
    found, tops = {}, numbers[count + num :]
    for place, i in enumerate(asking):
        wanted = min(texts[i].options.logprobs or 0, k)
        of_row = slice(place * k, place * k + wanted)
        ids = tops[num * k :][of_row]
        top = [(int(token), value) for token, value in zip(ids, tops[of_row])]
        found[i] = TokenLogprobs(numbers[count + place], top)
    return Choices([int(token) for token in numbers[:count]], found)


def token_logprobs(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
    """Return the log-probabilities of given tokens, one for each row.

    Args:
        logits: fp32 [R, V].
        tokens: a token for each row.
        top: number of the most probable tokens to report.
    """
    lprobs = logits.double().log_softmax(1)
    chosen = lprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1)
    values, best = lprobs.topk(min(top, lprobs.size(1)))
    rows = zip(chosen.tolist(), best.tolist(), values.tolist())
    return [TokenLogprobs(found, list(zip(ids, tops))) for found, ids, tops in rows]


def choose_tokens(
    scores: Tensor, topk: Sequence[int], topp: Sequence[float], draws: Sequence[float]
) -> Tensor:
    """Sample a token for each row, by inverting its distribution; int64 [R].

    Source: the nucleus is from Holtzman et al. 2020; it is taken among the tokens that top-k
    leaves, whose probabilities are normalised first. Deviation: tokens of exactly the same
    probability as the least probable one of more than ``_SORTED`` tokens are kept, too.

    Args:
        scores: log-probabilities [R, V], which need not be normalised; the greatest of each row is
            finite.
        topk: number of the most probable tokens to choose from; 0 or less means all.
        topp: choose from the smallest set of tokens with at least this probability; 1 or more, and
            0 or less, mean all tokens.
        draws: uniform numbers in [0, 1).
    """
    probs = scores.float().softmax(1)
    vocabulary, device = probs.size(1), probs.device
    most = [min(k, vocabulary) if k > 0 else vocabulary for k in topk]
    nucleus = [p if 0 < p < 1 else 1.0 for p in topp]
    options = torch.tensor([most, nucleus, draws], dtype=torch.float64, device=device)
    # rows for which a few sorted tokens may do; on a GPU, only where that is certain beforehand
    few = [
        i
        for i, (k, p) in enumerate(zip(most, nucleus))
        if k <= _SORTED or (k == vocabulary and p < 1 and device.type == "cpu")
    ]
    chosen = torch.empty(probs.size(0), dtype=torch.long, device=device)
    rest = set(range(len(most))).difference(few)
    if few:
        rows = torch.tensor(few, device=device)
        part = options[:, rows]
        found, decided = _choose_among_few(probs[rows], part, vocabulary)
        chosen[rows] = found
        if any(most[i] > _SORTED for i in few):
            rest.update(i for i, known in zip(few, decided.tolist()) if not known)
    if rest:
        rows = torch.tensor(sorted(rest), device=device)
        part, left = options[:, rows], probs[rows]
        if any(most[i] < vocabulary or nucleus[i] < 1 for i in rest):
            left = left * (left >= _least_kept(left, part))
        chosen[rows] = _invert(left, part[2])
    return chosen


def _choose_among_few(probs: Tensor, options: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Choose among the ``_SORTED`` most probable tokens of each row.

    Args:
        probs: [R, V].
        options: top-k, the probability of the nucleus and the uniform number, fp64 [3, R].
        vocabulary: V.

    Returns:
        The choices, int64 [R], and whether the row needs no other tokens, bool [R].
    """
    most, nucleus, draw = options.unsqueeze(2)  # each [R, 1]
    values, tokens = probs.topk(min(_SORTED, vocabulary))
    size = values.size(1)
    rank = torch.arange(size, device=values.device)
    values = values.double().masked_fill_(rank >= most, 0.0)
    total = values.cumsum(1)
    limit = nucleus * torch.where(most <= size, total[:, -1:], 1.0)
    decided = (most <= size) | (total[:, -1:] >= limit)
    inside = (total - values < limit) & (values > 0)
    mass = total.masked_fill(~inside, 0.0).amax(1, keepdim=True)
    index = (total <= draw * mass).sum(1, keepdim=True)
    last = inside.sum(1, keepdim=True) - 1  # a product may have been rounded to the mass
    index = index.minimum(last).clamp(min=0)
    return tokens.gather(1, index).squeeze(1), decided.squeeze(1)


def _least_kept(probs: Tensor, options: Tensor) -> Tensor:
    """Return the least probability of a token that top-k and the nucleus leave, [R, 1].

    Args:
        probs, options: as in :func:`_choose_among_few`.
    """
    most, nucleus, _ = options.unsqueeze(2)
    if probs.is_cuda:
        values = probs.sort(dim=1, descending=True).values
    else:  # NumPy sorts without the indices, thirty times as fast
        values = torch.from_numpy(np.sort(probs.numpy(), axis=1)).flip(1)
    rank = torch.arange(values.size(1), device=values.device)
    kept = values.double().masked_fill_(rank >= most, 0.0)
    total = kept.cumsum(1)
    inside = (total - kept < nucleus * total[:, -1:]) & (kept > 0)
    return values.gather(1, inside.sum(1, keepdim=True).sub_(1).clamp_(min=0))


def _invert(weights: Tensor, draws: Tensor) -> Tensor:
    """Return for each row the token at which its sum of weights reaches a share of the whole.

    Args:
        weights: [R, V], not negative.
        draws: the shares, fp64 [R].

    Returns:
        int64 [R], tokens with a weight above 0.
    """
    missing = -weights.size(1) % _BLOCK
    blocks = F.pad(weights, (0, missing)).view(weights.size(0), -1, _BLOCK)
    sums = blocks.sum(2, dtype=torch.float64)
    target = draws.unsqueeze(1) * sums.sum(1, keepdim=True)
    block, before = _reach(sums, target)
    inside = blocks.gather(1, block.unsqueeze(2).expand(-1, 1, _BLOCK)).squeeze(1).double()
    place, _ = _reach(inside, target - before)
    return (block * _BLOCK + place).squeeze(1)


def _reach(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the sum of weights [R, n] exceeds the target [R, 1], and the sum before it."""
    total = weights.cumsum(1)
    positive = weights > 0
    last = torch.where(positive, torch.arange(weights.size(1), device=weights.device), 0).amax(1)
    place = (total <= target).sum(1).minimum(last).unsqueeze(1)
    return place, total.gather(1, place) - weights.gather(1, place)

"""Penalise the probability of tokens that already occur in a text."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Number of tokens whose logits are stored at a time; they are recomputed for the gradient.
CHUNK_ROWS = 512


def earlier_tokens(target: Tensor, owner: Tensor, pad: int) -> Tensor:
    """Return the earlier tokens of the same text for each token.

    Source: Welleck et al. 2020, equation 4; the token itself is not one of its candidates.

    Args:
        target: concatenated texts, int64 [N].
        owner: number of the text of each token, int64 [N]; the tokens of a text are consecutive.
        pad: padding token, which is never a candidate.

    Returns:
        int64 [N, W], padded with ``pad``, where W is the length of the longest text.
    """
    n = target.numel()
    place = torch.arange(n, device=target.device)
    first = torch.ones(n, dtype=torch.bool, device=target.device)
    first[1:] = owner[1:] != owner[:-1]
    start = torch.where(first, place, 0).cummax(0).values  # [N]: index of the text's first token
    width = int((place - start).max()) + 1 if n else 1
    index = start.unsqueeze(1) + torch.arange(width, device=target.device)
    candidates = target[index.clamp(max=max(n - 1, 0))]
    earlier = index < place.unsqueeze(1)
    return candidates.masked_fill(~earlier | (candidates == target.unsqueeze(1)), pad)


def unlikelihood(
    features: Tensor,
    weight: Tensor,
    negatives: Tensor,
    pad: int,
    token_weight: Tensor | None = None,
) -> Tensor:
    """Sum -log(1 - p(c)) over each token's distinct negative candidates c.

    Source: Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training",
    equations 3 and 4.

    Args:
        features: [N, C].
        weight: output embedding [V, C].
        negatives: candidates of each token, int64 [N, W], padded with ``pad``.
        pad: padding token, which is never a candidate; it may be at least V.
        token_weight: factor of each token's penalty, fp32 [N], or None for 1.

    Returns:
        The penalty in nats, an fp32 scalar with gradients by ``features`` and ``weight``.
    """

    def of_chunk(h: Tensor, w: Tensor, candidates: Tensor, factor: Tensor | None) -> Tensor:
        log_p = F.linear(h, w).float().log_softmax(-1)  # [n, V]
        width = max(log_p.size(1), pad + 1)  # the projection may have no row for padding
        chosen = log_p.new_zeros(log_p.size(0), width, dtype=torch.bool)
        chosen.scatter_(1, candidates, True)[:, pad] = False
        chosen = chosen[:, : log_p.size(1)]
        # 1 - p, clamped because p may round to 1
        rest = (-torch.expm1(log_p)).clamp_min(1e-6)
        own = -(rest.log() * chosen).sum(1)
        return own.sum() if factor is None else (own * factor).sum()

    total = features.new_zeros((), dtype=torch.float32)
    for start in range(0, features.size(0), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        factor = None if token_weight is None else token_weight[rows]
        total = total + checkpoint(
            of_chunk, features[rows], weight, negatives[rows], factor, use_reentrant=False
        )
    return total


def repeated_ngram_tokens(tokens: Tensor, owner: Tensor, size: int) -> Tensor:
    """Mark the tokens of every n-gram that has occurred earlier in the same text.

    Args:
        tokens: concatenated texts, int64 [N].
        owner: number of the text of each token, int64 [N], as in :func:`earlier_tokens`.
        size: n.

    Returns:
        bool [N], True for a token of a repeated n-gram.
    """
    marked = torch.zeros(tokens.numel(), dtype=torch.bool)
    values, owners = tokens.tolist(), owner.tolist()
    seen: set[tuple[int, ...]] = set()
    for i in range(len(values) - size + 1):
        if owners[i] != owners[i + size - 1]:
            continue
        gram = (owners[i], *values[i : i + size])
        if gram in seen:
            marked[i : i + size] = True
        seen.add(gram)
    return marked.to(tokens.device)

"""Compute losses and gradients of the vocabulary projection for a few tokens at a time.

:mod:`~fairtale.modules.chunked_loss` makes this computation available to autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# With this scale, fp16 represents p - q down to 4e-12 and overflows only at 4 (|p - q| <= 1).
FP16_SCALE = 2.0**14


class ProjectionSettings(NamedTuple):
    """Settings of the projection; see ``chunked_cross_entropy``."""

    eps: float
    padding_idx: int | None
    chunk_rows: int  # number of tokens whose logits are computed at a time
    operand_dtype: torch.dtype  # dtype of the operands of matrix products
    sum_dtype: torch.dtype  # dtype of logits, losses and gradients
    count_correct: bool


class Projected(NamedTuple):
    """Losses of N tokens, and the requested gradients of their weighted sum."""

    nll: Tensor  # [N]
    cross_entropy: Tensor  # H(q, p) [N]; the same tensor as nll without smoothing
    num_correct: Tensor | None  # int64, 0-dimensional
    grad_features: Tensor | None  # [N, C]
    grad_weight: Tensor | None  # [V, C]


def smoothed_target_entropy(eps: float, num_symbols: int) -> tuple[float, float, float]:
    """Compute the probabilities and the entropy of the smoothed target q.

    See ``chunked_cross_entropy`` for q.

    Args:
        eps: label smoothing, in [0, 1).
        num_symbols: number of symbols without padding, at least 2.

    Returns:
        q of the target, q of every other real symbol, and the entropy H(q) in nats.
    """
    on_target, elsewhere = 1.0 - eps, eps / (num_symbols - 1)
    q = torch.tensor([on_target, elsewhere], dtype=torch.float64)
    surprise = -torch.xlogy(q, q)  # 0 log 0 = 0
    return on_target, elsewhere, (surprise[0] + (num_symbols - 1) * surprise[1]).item()


def project(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor | None,
    settings: ProjectionSettings,
    features_grad: bool,
    weight_grad: bool,
) -> Projected:
    """Project features [N, C] by weight [V, C]; return losses and the requested gradients.

    With e = q of the other symbols and w the token weights, the gradient by the logits is
    w (p - e + e [pad] - (1 - eps - e) [target]). Only p and the entry of the target are computed in
    the N x V matrix. The constant e contributes a term of rank one to the results, and w scales
    rows of [N, C] matrices. Smoothing and weights thus need no pass over the logits.

    Args:
        target: int64 [N].
        token_weight: fp32 [N], or None for 1.
        features_grad, weight_grad: compute the gradient by the features, by the weight.
    """
    num_rows, num_symbols = features.size(0), weight.size(0)
    dtype, pad = settings.sum_dtype, settings.padding_idx
    h_all, w_all = features.to(settings.operand_dtype), weight.to(settings.operand_dtype)
    half = h_all.dtype != dtype
    scale = FP16_SCALE if h_all.dtype == torch.float16 else 1.0
    num_real = num_symbols - (pad is not None)
    on_target, elsewhere, _ = smoothed_target_entropy(settings.eps, num_real)
    weight_sum = _sum_of_real_symbols(w_all, pad, dtype) if elsewhere else None  # [C]

    nll = features.new_empty(num_rows, dtype=dtype)
    cross_entropy = torch.empty_like(nll) if elsewhere else nll
    num_correct = target.new_zeros(()) if settings.count_correct else None
    grad_features = torch.empty_like(features, dtype=dtype) if features_grad else None
    grad_weight = torch.empty_like(weight, dtype=dtype) if weight_grad else None
    if grad_weight is not None:
        _start_weight_gradient(grad_weight, h_all, token_weight, elsewhere, pad)

    rows = settings.chunk_rows
    logits_buffer = features.new_empty(min(rows, num_rows), num_symbols, dtype=dtype)
    half_buffer = torch.empty_like(logits_buffer, dtype=h_all.dtype) if half else None
    weight_scratch = torch.empty_like(w_all) if half and weight_grad and not w_all.is_cuda else None
    for start in range(0, num_rows, rows):
        chunk = slice(start, min(start + rows, num_rows))
        h, t = h_all[chunk], target[chunk].unsqueeze(1)
        logits = logits_buffer[: h.size(0)]  # [n, V]
        in_half = None if half_buffer is None else half_buffer[: h.size(0)]
        _product(h, w_all.t(), logits, scratch=in_half)
        nll[chunk], log_z, correct = _softmax_in_place(logits, t, settings.count_correct)
        if num_correct is not None and correct is not None:
            num_correct += correct
        if weight_sum is not None:
            total = h.to(dtype) @ weight_sum  # sum of all real logits
            cross_entropy[chunk] = (on_target - elsewhere) * nll[chunk] + elsewhere * (
                num_real * log_z - total
            )
        if not (features_grad or weight_grad):
            continue

        p = logits.scatter_(1, t, logits.gather(1, t).sub_(on_target - elsewhere))
        if in_half is not None:
            p = in_half.copy_(p.mul_(scale) if scale != 1.0 else p)
        if grad_features is not None:
            _product(p, w_all, grad_features[chunk], alpha=1.0 / scale)
        if grad_weight is not None:
            if token_weight is not None:
                # round once, after the product, because rounding the token weight causes a bias
                h = (h * token_weight[chunk].unsqueeze(1).to(dtype)).to(h.dtype)
            started = elsewhere > 0 or start > 0
            _product(p.t(), h, grad_weight, started, alpha=1.0 / scale, scratch=weight_scratch)

    if grad_features is not None:
        if weight_sum is not None:
            grad_features.sub_(weight_sum, alpha=elsewhere)
        if token_weight is not None:
            grad_features.mul_(token_weight.unsqueeze(1))
    return Projected(nll, cross_entropy, num_correct, grad_features, grad_weight)


def _product(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    accumulate: bool = False,
    alpha: float = 1.0,
    scratch: Tensor | None = None,
) -> None:
    """Set ``out`` to alpha * a b (+ out), for operands of ``out``'s dtype or of half precision.

    For half-precision operands, a GPU sums and stores in fp32. A CPU sums in fp32 and rounds the
    product once (into ``scratch``, if given), before it is converted or added.
    """
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=float(accumulate), alpha=alpha, out=out)
    elif a.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=float(accumulate), alpha=alpha, out=out)
    else:
        assert alpha == 1.0  # only fp16 is scaled, and fp16 is not used on a CPU
        rounded = torch.mm(a, b, out=scratch)
        if accumulate:
            out.add_(rounded)
        else:
            out.copy_(rounded)


def _sum_of_real_symbols(weight: Tensor, pad: int | None, dtype: torch.dtype) -> Tensor:
    """Return the sum [C] of the rows of ``weight`` [V, C] without the padding's row."""
    if pad is None:
        return weight.sum(0, dtype=dtype)
    return weight[:pad].sum(0, dtype=dtype) + weight[pad + 1 :].sum(0, dtype=dtype)


def _start_weight_gradient(
    grad: Tensor, features: Tensor, token_weight: Tensor | None, elsewhere: float, pad: int | None
) -> None:
    """Initialise ``grad`` [V, C] with the rank-one term of smoothing; the chunks add the rest.

    Without smoothing, the first chunk overwrites ``grad``, so only an empty batch needs zeros.
    """
    if features.size(0) == 0:
        grad.zero_()
    elif elsewhere:
        if token_weight is None:
            total = features.sum(0, dtype=grad.dtype)
        else:
            total = token_weight.to(grad.dtype) @ features.to(grad.dtype)
        grad.copy_(total.mul_(-elsewhere))
        if pad is not None:
            grad[pad] = 0


def _softmax_in_place(
    logits: Tensor, t: Tensor, count_correct: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Turn logits [n, V] into probabilities, in place.

    Args:
        logits: [n, V].
        t: targets, int64 [n, 1].
        count_correct: count the targets with the largest logit.

    Returns:
        The negative log-likelihoods [n], the logsumexp [n], and the count or None.
    """
    at_target = logits.gather(1, t)
    guess = None
    if count_correct or logits.is_cuda:
        peak, guess = logits.max(1, keepdim=True)
    else:
        # on a CPU, computing two maxima is faster than computing one with its index
        peak = logits.amax(1, keepdim=True)
    correct = (guess == t).sum() if guess is not None and count_correct else None
    # this is safe in place, because the kernels read a whole row before they write it
    p = torch.softmax(logits, 1, out=logits)
    p_peak = p.amax(1, keepdim=True) if guess is None else p.gather(1, guess)
    # the largest p is at least 1 / V, so its logarithm is accurate; p of the target may underflow
    log_z = p_peak.log().neg_()  # logsumexp - peak
    return (peak - at_target + log_z).squeeze(1), (log_z + peak).squeeze(1), correct

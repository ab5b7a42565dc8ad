"""Compute vocabulary projection and label-smoothed cross-entropy together, in chunks of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .chunked_projection import (
    Projected,
    ProjectionSettings,
    project,
    smoothed_target_entropy,
)
from .fast_gemm import fast_fp32_products

__all__ = [
    "LossSums",
    "chunk_rows",
    "chunked_cross_entropy",
    "projected_padding",
    "smoothed_target_entropy",
    "whole_cross_entropy",
]

# Measured with benchmarks/loss_memory.py. On a CPU, larger chunks exceed the cache and the
# allocator's heap. On a GPU, the matrix product is slow for small chunks.
CPU_CHUNK_MIB = 32
GPU_CHUNK_MIB = 256
MIN_AUTO_ROWS = 512
MIN_CHUNK_ROWS = 128
# Matrix kernels process tiles of rows; a chunk with an incomplete tile is up to a third slower.
ROW_TILE = 64


class LossSums(NamedTuple):
    """Sums over the tokens of a batch, 0-dimensional, in nats, on the device of the features."""

    loss: Tensor  # weight * H(q, p), fp32 (fp64 for fp64 features); the only one with a gradient
    weighted_nll: Tensor  # weight * nll, fp64
    nll: Tensor  # negative log-likelihood without smoothing and weights, fp64
    cross_entropy: Tensor  # H(q, p) without weights, fp64
    num_correct: Tensor | None  # int64: tokens whose target has the largest logit, if counted


def chunk_rows(num_rows: int, row_bytes: int, chunk_mib: int, min_rows: int) -> int:
    """Choose the number of tokens that are projected at a time.

    Args:
        num_rows: N.
        row_bytes: bytes of the logits of one token.
        chunk_mib: maximum MiB of logits, at least 1.
        min_rows: minimum number of tokens in a chunk; it overrides ``chunk_mib``.

    Returns:
        A multiple of ``ROW_TILE`` that makes all chunks about equally long, or N.
    """
    most = max(chunk_mib * 2**20 // row_bytes // ROW_TILE * ROW_TILE, min_rows)
    if num_rows <= most:
        return max(num_rows, 1)
    num_chunks = -(-num_rows // most)
    even = -(-num_rows // num_chunks)
    return min(-(-even // ROW_TILE) * ROW_TILE, most)


def projected_padding(padding_idx: int | None, num_symbols: int) -> int | None:
    """Return ``padding_idx`` if it is one of the ``num_symbols`` projected symbols, else None."""
    return None if padding_idx is None or padding_idx >= num_symbols else padding_idx


def _project_plainly(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor | None,
    settings: ProjectionSettings,
    wanted: tuple[bool, bool],
) -> Projected:
    """Call ``project`` in the precision of ``settings``, regardless of autocast.

    Args:
        wanted: whether to compute the gradients by the features and by the weight.
    """
    device = features.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False), fast_fp32_products():
        return project(features, weight, target, token_weight, settings, *wanted)


def _sums(
    loss: Tensor,
    nll: Tensor,
    cross_entropy: Tensor,
    token_weight: Tensor | None,
    num_correct: Tensor | None,
) -> LossSums:
    weighted = nll if token_weight is None else nll * token_weight
    return LossSums(
        loss=loss,
        weighted_nll=weighted.sum(dtype=torch.float64),
        nll=nll.sum(dtype=torch.float64),
        cross_entropy=cross_entropy.sum(dtype=torch.float64),
        num_correct=num_correct,
    )


class _ChunkedCrossEntropy(Function):
    """Compute the gradients in the forward pass, and return them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        token_weight: Tensor | None,
        settings: ProjectionSettings,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        ctx.wanted = tuple(with_grad and needed for needed in ctx.needs_input_grad[:2])
        ctx.settings = settings
        ctx.save_for_backward(features, weight, target, token_weight)
        ctx.set_materialize_grads(False)
        nll, cross_entropy, num_correct, *ctx.grads = _project_plainly(
            features, weight, target, token_weight, settings, ctx.wanted
        )
        loss = cross_entropy if token_weight is None else cross_entropy * token_weight
        cross_entropy = cross_entropy.clone() if cross_entropy is nll else cross_entropy
        fixed = [x for x in (nll, cross_entropy, num_correct) if x is not None]
        ctx.mark_non_differentiable(*fixed)
        return loss.sum(), nll, cross_entropy, num_correct

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * 6
        if torch.is_grad_enabled():
            # the gradient is a constant here, so a second derivative would silently be zero
            raise RuntimeError(
                "chunked_cross_entropy has no second derivative: leave create_graph out, or use "
                "whole_cross_entropy"
            )
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            # an earlier backward pass through a retained graph has already returned the tensors
            saved: tuple[Tensor, Tensor, Tensor, Tensor | None] = ctx.saved_tensors
            projected = _project_plainly(*saved, settings=ctx.settings, wanted=ctx.wanted)
            grads = projected.grad_features, projected.grad_weight
        # scale before the conversion to fp16, because the loss scale may be large
        results = [
            None if grad is None else grad.mul_(grad_loss).to(like.dtype)
            for grad, like in zip(grads, ctx.saved_tensors[:2], strict=True)
        ]
        return (*results, None, None, None, None)


def _operand_dtype(features: Tensor, weight: Tensor) -> torch.dtype:
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    elif features.dtype != weight.dtype:
        raise ValueError(f"features are {features.dtype}, weight is {weight.dtype}: must be equal")
    else:
        dtype = features.dtype
    # CPUs do not multiply fp16 natively, so fp32 is both faster and more exact
    return torch.float32 if dtype == torch.float16 and device == "cpu" else dtype


def chunked_cross_entropy(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor | None = None,
    *,
    eps: float = 0.0,
    padding_idx: int | None = None,
    chunk_mib: int = 0,
    count_correct: bool = False,
) -> LossSums:
    """Sum the label-smoothed cross-entropy of ``features @ weight.T`` without storing all logits.

    The forward pass computes the logits of a few rows at a time and converts them to the gradient
    immediately. It therefore needs memory for one chunk instead of several N x V matrices. The
    backward pass only multiplies by the gradient of the loss.

    Source: Liger Kernel computes this gradient in the forward pass ("fused linear cross entropy",
    Hsu et al. 2024, section 3.2). Deviations: exact smoothing by a rank-one term (``project``),
    token weights, and plain torch operations. Smoothing follows Szegedy et al. 2016, section 7, but
    excludes padding: with V' real symbols, q is 1 - eps on the target, eps / (V' - 1) on the other
    symbols and 0 on padding. p is the softmax over all V symbols.

    Args:
        features: last hidden states [N, C], fp64, fp32, bf16 or fp16.
        weight: output embedding [V, C], of the same dtype except under autocast.
        target: int64 [N]; must not contain ``padding_idx``.
        token_weight: factor of each token's loss, fp32 [N] without gradient, or None for 1.
        eps: label smoothing, in [0, 1).
        padding_idx: the padding symbol, which q excludes, or None; it may be at least V if the
            projection has no row for padding.
        chunk_mib: maximum MiB of fp32 logits at a time; 0 selects a value for the device. A chunk
            has at least 128 tokens, because the matrix product is slow for fewer.
        count_correct: also count the targets with the largest logit.

    Returns:
        Sums in nats, fp32 (fp64 for fp64 features). The function does not wait for the device.

    Raises:
        ValueError: shapes, dtypes or ``eps`` are invalid.
    """
    if features.dim() != 2 or weight.dim() != 2 or features.size(1) != weight.size(1):
        raise ValueError(
            f"features must be [N, C] and weight [V, C], "
            f"got {tuple(features.shape)} and {tuple(weight.shape)}"
        )
    if target.shape != features.shape[:1] or target.dtype != torch.int64:
        raise ValueError(
            f"target must be int64 [{features.size(0)}], got {target.dtype} {tuple(target.shape)}"
        )
    if token_weight is not None and (
        token_weight.shape != target.shape or token_weight.requires_grad
    ):
        raise ValueError("token_weight must have one factor for each target, and no gradient")
    if not 0.0 <= eps < 1.0:
        raise ValueError(f"eps must be in [0, 1), got {eps}")

    operand_dtype = _operand_dtype(features, weight)
    sum_dtype = torch.float64 if operand_dtype == torch.float64 else torch.float32
    if chunk_mib:
        mib, min_rows = chunk_mib, MIN_CHUNK_ROWS
    else:
        mib, min_rows = (GPU_CHUNK_MIB if features.is_cuda else CPU_CHUNK_MIB), MIN_AUTO_ROWS
    settings = ProjectionSettings(
        eps=eps,
        padding_idx=projected_padding(padding_idx, weight.size(0)),
        chunk_rows=chunk_rows(features.size(0), weight.size(0) * sum_dtype.itemsize, mib, min_rows),
        operand_dtype=operand_dtype,
        sum_dtype=sum_dtype,
        count_correct=count_correct,
    )
    apply: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]] = _ChunkedCrossEntropy.apply
    loss, nll, cross_entropy, num_correct = apply(
        features, weight, target, token_weight, settings, torch.is_grad_enabled()
    )
    return _sums(loss, nll, cross_entropy, token_weight, num_correct)


def whole_cross_entropy(
    lprobs: Tensor,
    target: Tensor,
    token_weight: Tensor | None = None,
    *,
    eps: float = 0.0,
    padding_idx: int | None = None,
    count_correct: bool = False,
) -> LossSums:
    """Compute the sums of ``chunked_cross_entropy`` from log-probabilities [N, V].

    It is meant for models whose output embedding is not accessible. The other arguments are those
    of :func:`chunked_cross_entropy`.
    """
    pad = projected_padding(padding_idx, lprobs.size(1))
    on_target, elsewhere, _ = smoothed_target_entropy(eps, lprobs.size(1) - (pad is not None))
    nll = -lprobs.gather(1, target.unsqueeze(1)).squeeze(1)
    cross_entropy = nll
    if elsewhere:
        if pad is None:
            total = lprobs.sum(1)
        else:
            total = lprobs[:, :pad].sum(1) + lprobs[:, pad + 1 :].sum(1)
        cross_entropy = (on_target - elsewhere) * nll - elsewhere * total
    loss = cross_entropy if token_weight is None else cross_entropy * token_weight
    num_correct = (lprobs.argmax(1) == target).sum() if count_correct else None
    return _sums(loss.sum(), nll.detach(), cross_entropy.detach(), token_weight, num_correct)

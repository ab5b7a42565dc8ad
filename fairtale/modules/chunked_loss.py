"""Vocabulary projection and label-smoothed cross-entropy in one step, chunk by chunk."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .fast_gemm import fast_fp32_products

# Measured (benchmarks/loss_memory.py): on a CPU larger chunks fall out of the cache and
# of the allocator's heap; on a GPU small ones starve the matrix product.
CPU_CHUNK_MIB = 32
GPU_CHUNK_MIB = 256
MIN_AUTO_ROWS = 512
MIN_CHUNK_ROWS = 128
# Matrix kernels work in tiles of rows; a chunk that ends inside one wastes up to a third.
ROW_TILE = 64
# fp16 holds p - q down to 4e-12 after this scaling and overflows at 4 (|p - q| <= 1).
FP16_SCALE = 2.0**14


class LossSums(NamedTuple):
    """Sums over the tokens of a batch in nats, 0-dimensional, on the features' device."""

    loss: Tensor  # weight * H(q, p), fp32 (fp64 for fp64 features); alone has a gradient
    weighted_nll: Tensor  # weight * nll, fp64
    nll: Tensor  # each token counted once and unsmoothed, fp64
    cross_entropy: Tensor  # H(q, p), each token counted once, fp64
    num_correct: Tensor | None  # int64: target has the largest logit; None if not asked


class _Settings(NamedTuple):
    eps: float
    padding_idx: int | None
    chunk_rows: int
    operand_dtype: torch.dtype
    sum_dtype: torch.dtype
    count_correct: bool


def smoothed_target_entropy(eps: float, num_symbols: int) -> tuple[float, float, float]:
    """Describe the smoothed target q of ``chunked_cross_entropy``.

    Args:
        eps: probability taken from the target, in [0, 1).
        num_symbols: V without padding, at least 2.

    Returns:
        q on the target, q on every other real symbol, and the entropy H(q) in nats.
    """
    on_target, elsewhere = 1.0 - eps, eps / (num_symbols - 1)
    q = torch.tensor([on_target, elsewhere], dtype=torch.float64)
    surprise = -torch.xlogy(q, q)  # 0 log 0 = 0
    return on_target, elsewhere, (surprise[0] + (num_symbols - 1) * surprise[1]).item()


def chunk_rows(num_rows: int, row_bytes: int, chunk_mib: int, min_rows: int) -> int:
    """Choose how many tokens are projected at a time.

    Args:
        num_rows: N.
        row_bytes: bytes of one token's logits.
        chunk_mib: most MiB of logits, at least 1.
        min_rows: tokens of a chunk, even if they are larger than that.

    Returns:
        A multiple of ``ROW_TILE``, such that all chunks are about equally long, or N.
    """
    most = max(chunk_mib * 2**20 // row_bytes // ROW_TILE * ROW_TILE, min_rows)
    if num_rows <= most:
        return max(num_rows, 1)
    num_chunks = -(-num_rows // most)
    even = -(-num_rows // num_chunks)
    return min(-(-even // ROW_TILE) * ROW_TILE, most)


def _product(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    accumulate: bool = False,
    alpha: float = 1.0,
    scratch: Tensor | None = None,
) -> None:
    """out = alpha * a b (+ out), for operands of ``out``'s or of half precision.

    A GPU sums and stores half operands in fp32. A CPU sums in fp32 and rounds the product
    once (into ``scratch``, if given), before it is converted or added.
    """
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=float(accumulate), alpha=alpha, out=out)
    elif a.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=float(accumulate), alpha=alpha, out=out)
    else:
        assert alpha == 1.0  # only fp16 is scaled, which a CPU never sees (_operand_dtype)
        rounded = torch.mm(a, b, out=scratch)
        out.add_(rounded) if accumulate else out.copy_(rounded)


def _project(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor | None,
    settings: _Settings,
    features_grad: bool,
    weight_grad: bool,
):
    """Compute nll [N], H(q, p) [N], the number correct, and the gradients asked for.

    With e = q elsewhere and w the token weights, the gradient by the logits is
    w (p - e + e [pad] - (1 - eps - e) [target]). Only p and the target's entry touch the
    N x V matrix; the constant e is a product of rank one, added to the results, and w
    scales rows of the narrow matrices. So smoothing costs no pass over the logits.
    """
    num_rows, num_symbols = features.size(0), weight.size(0)
    dtype = settings.sum_dtype
    h_all, w_all = features.to(settings.operand_dtype), weight.to(settings.operand_dtype)
    half = h_all.dtype != dtype
    scale = FP16_SCALE if h_all.dtype == torch.float16 else 1.0
    pad = settings.padding_idx
    num_real = num_symbols - (pad is not None)
    on_target, elsewhere, _ = smoothed_target_entropy(settings.eps, num_real)

    weight_sum = None
    if elsewhere:
        if pad is None:
            weight_sum = w_all.sum(0, dtype=dtype)
        else:
            weight_sum = w_all[:pad].sum(0, dtype=dtype) + w_all[pad + 1 :].sum(0, dtype=dtype)

    nll = features.new_empty(num_rows, dtype=dtype)
    cross_entropy = torch.empty_like(nll) if elsewhere else nll
    num_correct = target.new_zeros(()) if settings.count_correct else None
    grad_features = torch.empty_like(features, dtype=dtype) if features_grad else None
    grad_weight = None
    if weight_grad:
        grad_weight = torch.empty_like(weight, dtype=dtype)
        if num_rows == 0:
            grad_weight.zero_()
        elif elsewhere:
            if token_weight is None:
                h_sum = h_all.sum(0, dtype=dtype)
            else:
                h_sum = token_weight.to(dtype) @ h_all.to(dtype)
            grad_weight.copy_(h_sum.mul_(-elsewhere))
            if pad is not None:
                grad_weight[pad] = 0

    rows = settings.chunk_rows
    logits_buffer = features.new_empty(min(rows, num_rows), num_symbols, dtype=dtype)
    half_buffer = torch.empty_like(logits_buffer, dtype=h_all.dtype) if half else None
    weight_scratch = torch.empty_like(w_all) if half and weight_grad and not w_all.is_cuda else None
    for start in range(0, num_rows, rows):
        chunk = slice(start, min(start + rows, num_rows))
        h, t = h_all[chunk], target[chunk].unsqueeze(1)
        logits = logits_buffer[: h.size(0)]  # [n, V]
        in_half = half_buffer[: h.size(0)] if half else None
        _product(h, w_all.t(), logits, scratch=in_half)

        at_target = logits.gather(1, t)
        guess = None
        if settings.count_correct or logits.is_cuda:
            peak, guess = logits.max(1, keepdim=True)
        else:
            # on a CPU two maxima cost less than one with its index
            peak = logits.amax(1, keepdim=True)
        if settings.count_correct:
            num_correct += (guess == t).sum()

        # in place: the kernels read a whole row before they write it
        p = torch.softmax(logits, 1, out=logits)
        p_peak = p.amax(1, keepdim=True) if guess is None else p.gather(1, guess)
        # p at the peak is at least 1 / V, so its logarithm is exact where p's at the
        # target may have underflowed
        log_z = p_peak.log().neg_()  # logsumexp - peak
        nll[chunk] = (peak - at_target + log_z).squeeze(1)
        if elsewhere:
            total = h.to(dtype) @ weight_sum  # of all real logits
            log_z = (log_z + peak).squeeze(1)
            cross_entropy[chunk] = (on_target - elsewhere) * nll[chunk] + elsewhere * (
                num_real * log_z - total
            )
        if not (features_grad or weight_grad):
            continue

        p.scatter_(1, t, p.gather(1, t).sub_(on_target - elsewhere))
        if half:
            p = in_half.copy_(p.mul_(scale) if scale != 1.0 else p)
        if features_grad:
            _product(p, w_all, grad_features[chunk], alpha=1.0 / scale)
        if weight_grad:
            if token_weight is not None:
                # rounded once, after the product: a rounded weight would be a bias
                h = (h * token_weight[chunk].unsqueeze(1).to(dtype)).to(h.dtype)
            started = elsewhere > 0 or start > 0
            _product(p.t(), h, grad_weight, started, alpha=1.0 / scale, scratch=weight_scratch)

    if features_grad:
        if elsewhere:
            grad_features.sub_(weight_sum, alpha=elsewhere)
        if token_weight is not None:
            grad_features.mul_(token_weight.unsqueeze(1))
    return nll, cross_entropy, num_correct, grad_features, grad_weight


def _project_plainly(tensors, settings: _Settings, features_grad: bool, weight_grad: bool):
    """``_project`` in exactly the precision of ``settings``, whatever autocast says."""
    device = tensors[0].device.type
    with torch.no_grad(), torch.autocast(device, enabled=False), fast_fp32_products():
        return _project(*tensors, settings, features_grad, weight_grad)


def _sums(loss, nll, cross_entropy, token_weight, num_correct) -> LossSums:
    weighted = nll if token_weight is None else nll * token_weight
    return LossSums(
        loss=loss,
        weighted_nll=weighted.sum(dtype=torch.float64),
        nll=nll.sum(dtype=torch.float64),
        cross_entropy=cross_entropy.sum(dtype=torch.float64),
        num_correct=num_correct,
    )


class _ChunkedCrossEntropy(Function):
    @staticmethod
    def forward(ctx, features, weight, target, token_weight, settings, with_grad):
        ctx.wanted = tuple(with_grad and needed for needed in ctx.needs_input_grad[:2])
        ctx.settings = settings
        ctx.save_for_backward(features, weight, target, token_weight)
        ctx.set_materialize_grads(False)
        nll, cross_entropy, num_correct, *ctx.grads = _project_plainly(
            (features, weight, target, token_weight), settings, *ctx.wanted
        )
        loss = cross_entropy if token_weight is None else cross_entropy * token_weight
        cross_entropy = cross_entropy.clone() if cross_entropy is nll else cross_entropy
        fixed = [x for x in (nll, cross_entropy, num_correct) if x is not None]
        ctx.mark_non_differentiable(*fixed)
        return loss.sum(), nll, cross_entropy, num_correct

    @staticmethod
    def backward(ctx, grad_loss, *_):
        if grad_loss is None:
            return (None,) * 6
        if torch.is_grad_enabled():
            # the gradient is a constant here: a second derivative would be silently zero
            raise RuntimeError(
                "chunked_cross_entropy has no second derivative: leave create_graph out, or use "
                "whole_cross_entropy"
            )
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            # a second backward through a retained graph: the first gave the tensors away
            *_, grad_features, grad_weight = _project_plainly(
                ctx.saved_tensors, ctx.settings, *ctx.wanted
            )
            grads = grad_features, grad_weight
        # scaled in place while still in fp32: fp16's loss scale may be large
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
        raise ValueError(f"features are {features.dtype}, weight is {weight.dtype}: give both one")
    else:
        dtype = features.dtype
    # no processor here multiplies fp16 natively; fp32 is faster as well as exact
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
    """Sum the label-smoothed cross-entropy of ``features @ weight.T`` without holding it.

    The logits of a few rows at a time are turned into the gradient at once, in the forward
    pass, so memory is one chunk instead of several N x V matrices; the backward pass only
    multiplies by the gradient of the loss.

    Source: the idea of computing this gradient in the forward pass is Liger Kernel's
    ("fused linear cross entropy", Hsu et al. 2024, section 3.2). Deviations: the smoothing
    is exact and of rank one (``_project``), token weights, plain torch operations.
    Smoothing: Szegedy et al. 2016, section 7, with padding outside the symbols: with V'
    real symbols, q is 1 - eps on the target, eps / (V' - 1) on the others, 0 on padding.
    p is the softmax over all V.

    Args:
        features: last hidden states [N, C], fp64, fp32, bf16 or fp16.
        weight: output embedding [V, C], of the same dtype unless under autocast.
        target: int64 [N]; never ``padding_idx``: drop those rows first.
        token_weight: factor of each token's loss, fp32 [N], or None for 1; constant.
        eps: label smoothing, in [0, 1).
        padding_idx: the symbol outside q, or None.
        chunk_mib: most MiB of fp32 logits at a time; 0 chooses by the device. A chunk has
            at least 128 tokens, so that the matrix product keeps its speed.
        count_correct: also count the targets with the largest logit.

    Returns:
        Sums in nats, fp32 (fp64 for fp64 features); nothing waits for the device.

    Raises:
        ValueError: shapes, dtypes or ``eps`` do not fit.
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
        raise ValueError("token_weight must be a constant with one factor for each target")
    if not 0.0 <= eps < 1.0:
        raise ValueError(f"eps must be in [0, 1), got {eps}")

    operand_dtype = _operand_dtype(features, weight)
    sum_dtype = torch.float64 if operand_dtype == torch.float64 else torch.float32
    if chunk_mib:
        mib, min_rows = chunk_mib, MIN_CHUNK_ROWS
    else:
        mib, min_rows = (GPU_CHUNK_MIB if features.is_cuda else CPU_CHUNK_MIB), MIN_AUTO_ROWS
    settings = _Settings(
        eps=eps,
        padding_idx=padding_idx,
        chunk_rows=chunk_rows(features.size(0), weight.size(0) * sum_dtype.itemsize, mib, min_rows),
        operand_dtype=operand_dtype,
        sum_dtype=sum_dtype,
        count_correct=count_correct,
    )
    loss, nll, cross_entropy, num_correct = _ChunkedCrossEntropy.apply(
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

    For models that do not show their output embedding. Arguments as there.
    """
    pad = padding_idx
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

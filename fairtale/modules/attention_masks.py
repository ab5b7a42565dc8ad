"""UniLM's mask and the causal mask: how sequences lie in rows, and which token sees which.

To change who sees whom, change this file:

- :class:`CausalRows` (training of ``gpt``): a token sees the tokens before it;
- :class:`UniLMRows` (training of ``unilm_seq2seq``): the tokens of a prefix see the whole prefix,
  those of a response see the prefix and the response so far;
- :class:`PrefixLayout` (generation, both models): prefixes are read before anything follows them,
  causally or in both directions.

Sequences of different lengths stand one after another in a single row without padding wherever
tokens do not look at each other. Only attention needs a row for each sequence, so the classes
copy tokens there and back. None of them builds a mask over whole sequences, T x T.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .attention import SelfAttention

# Prefixes with a greater share of real tokens are read with their padding: leaving out the few
# padding cells would save less than the two copies cost.
_FULL = 0.9


class PackedRows(Protocol):
    """Sequences that stand in one row without padding, and the mask of their attention."""

    def attend(self, attention: SelfAttention, qkv: Tensor) -> Tensor:
        """Let the tokens of each sequence attend as the mask allows.

        Args:
            attention: gives the number of heads, and dropout in training.
            qkv: projected queries, keys and values [1, N, 3C].

        Returns:
            [1, N, C], before the output projection.
        """
        ...


# ----------------------------------------------------------------------- the causal mask


class CausalRows(NamedTuple):
    """Sequences whose tokens see the tokens before them, as :class:`PackedRows`.

    The N tokens are copied into M rows of the longest sequence's length. The padding of those
    rows holds copies of other tokens; it stands at the right, where causality hides it.
    """

    pad_index: Tensor  # [M, T] int64: for each cell the token that is copied there
    unpad_index: Tensor  # [N] int64: for each token its cell in the flattened [M * T]

    def attend(self, attention: SelfAttention, qkv: Tensor) -> Tensor:
        """Attend causally within each sequence, [1, N, 3C] -> [1, N, C]."""
        rows, width = self.pad_index.shape
        cells = self.pad_index.view(-1)
        qkv = repack(qkv[0], cells, self.unpad_index).view(rows, width, -1)
        y = attention.attend_causally(qkv).view(rows * width, -1)
        return repack(y, self.unpad_index, cells).unsqueeze(0)


def packing_index(lengths: Tensor | list[int], width: int | None = None) -> CausalRows:
    """Build the index of a row that holds sequences of these ``lengths``, one after another.

    Args:
        lengths: int64 [M].
        width: T of the rows for attention; default the greatest length.
    """
    lengths = torch.as_tensor(lengths, dtype=torch.long)
    width = int(lengths.max()) if width is None else width
    starts = lengths.cumsum(0) - lengths
    cell = torch.arange(width, device=lengths.device)
    inside = cell < lengths.unsqueeze(1)  # [M, T], True on real tokens
    pad_index = torch.where(inside, starts.unsqueeze(1) + cell, starts.unsqueeze(1))
    return CausalRows(pad_index, inside.flatten().nonzero().squeeze(1))


# --------------------------------------------------------------------------- UniLM's mask


class UniLMRows(NamedTuple):
    """Dialogs with UniLM's sequence-to-sequence mask, as :class:`PackedRows`.

    Source: Dong et al. 2019, figure 1. The N tokens are copied into M rows: the prefixes into
    cells 0 to S - 1, the responses into cells S to S + T - 1. Built by :func:`unilm_rows`.
    """

    cells: Tensor  # [M * (S + T)] int64: for each cell the token that is copied there
    unpad_index: Tensor  # [N] int64: for each token its cell
    prefix_mask: Tensor  # bool [M, 1, 1, S], True on real tokens
    response_mask: Tensor  # bool [M, 1, T, S + T], True where a response token may look

    def attend(self, attention: SelfAttention, qkv: Tensor) -> Tensor:
        """Attend within each dialog, [1, N, 3C] -> [1, N, C].

        Two calls of scaled_dot_product_attention compute just the two blocks of the mask that
        hold something: prefix by prefix, S x S, and response by both, T x (S + T).
        """
        m, s = self.prefix_mask.size(0), self.prefix_mask.size(3)
        rows = repack(qkv[0], self.cells, self.unpad_index).view(m, -1, qkv.size(-1))
        q, k, v = attention.split(rows)  # [M, H, S + T, D]
        p = attention.dropout if attention.training else 0.0
        prefix = F.scaled_dot_product_attention(
            q[:, :, :s], k[:, :, :s], v[:, :, :s], attn_mask=self.prefix_mask, dropout_p=p
        )
        response = F.scaled_dot_product_attention(
            q[:, :, s:], k, v, attn_mask=self.response_mask, dropout_p=p
        )
        y = torch.cat([prefix, response], 2).transpose(1, 2)  # [M, S + T, H, D]
        y = y.reshape(self.cells.numel(), -1)
        return repack(y, self.unpad_index, self.cells).unsqueeze(0)


def unilm_rows(prefix_lengths: Tensor, response_lengths: Tensor, s: int, t: int) -> UniLMRows:
    """Build the index of a row that holds dialogs of these two lengths, one after another.

    Args:
        prefix_lengths, response_lengths: int64 [M]; a prefix has at least one token.
        s, t: the longest of each, known to the caller without waiting for the device.
    """
    device = prefix_lengths.device
    total = prefix_lengths + response_lengths
    starts = (total.cumsum(0) - total).unsqueeze(1)
    in_prefix, in_response = torch.arange(s, device=device), torch.arange(t, device=device)
    real_prefix = in_prefix < prefix_lengths.unsqueeze(1)  # [M, S]
    real_response = in_response < response_lengths.unsqueeze(1)  # [M, T]
    real = torch.cat([real_prefix, real_response], 1)
    begins = starts + prefix_lengths.unsqueeze(1)
    cells = torch.cat([starts + in_prefix, begins + in_response], 1)
    # padding cells repeat the dialog's first token; no real token looks at them
    cells = torch.where(real, cells, starts)
    m = len(total)
    causal = torch.ones(t, t, dtype=torch.bool, device=device).tril()
    response_mask = torch.cat([real_prefix.unsqueeze(1).expand(m, t, s), causal.expand(m, t, t)], 2)
    return UniLMRows(
        cells.view(-1),
        real.view(-1).nonzero().squeeze(1),
        real_prefix[:, None, None, :],
        response_mask.unsqueeze(1),
    )


# ---------------------------------------------------------------- prefixes in generation


class PrefixLayout(NamedTuple):
    """How prefixes of different lengths lie while they are read, and who sees whom."""

    real: Tensor  # bool [B, 1, 1, S], True on real tokens
    mask: Tensor | None  # True where a token may look: `real`; None for causal attention
    rows: CausalRows | None  # tokens stand in one row [1, N, C]; None: as [B, S, C]
    ends: Tensor  # int64 [B]: place of each prefix's last token in its row
    last: Tensor  # int64 [B]: the same among all tokens, flattened


def lay_out_prefixes(width: int, lengths: Tensor, bidirectional: bool) -> PrefixLayout:
    """Choose how prefixes of these ``lengths``, padded at the right to ``width``, are read.

    Args:
        width: S.
        lengths: int64 [B], each at least 1.
        bidirectional: the tokens of a prefix see all of it (UniLM); else those before them.
    """
    real = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)  # [B, S]
    ends = lengths - 1
    rows: CausalRows | None
    if int(lengths.sum()) > _FULL * real.numel():
        rows, last = None, torch.arange(len(lengths), device=lengths.device) * width + ends
    else:
        rows, last = packing_index(lengths, width), lengths.cumsum(0) - 1
    real = real[:, None, None, :]
    # causality already hides the padding, which stands at the right
    return PrefixLayout(real, real if bidirectional else None, rows, ends, last)


# ------------------------------------------------------------------ copies there and back


def repack(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Return ``x[index]`` along the first dimension, with a cheap gradient.

    Args:
        x: [A, ...].
        index: int64 [B'], the row of ``x`` that each new row copies. Rows copied more than
            once are padding: their gradient must be zero.
        inverse: int64 [A], where each row of ``x`` (or, if there are fewer rows than
            that, each row kept) stands among the new ones.
    """
    return _Repack.apply(x, index, inverse)  # type: ignore[no-untyped-call]  # torch's own


class _Repack(torch.autograd.Function):
    """Select rows where the gradient is a selection too, not a scatter with additions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        if inverse.numel() <= index.numel():
            return grad.index_select(0, inverse), None, None
        out = grad.new_zeros(inverse.numel(), *grad.shape[1:])
        return out.index_copy_(0, index, grad), None, None

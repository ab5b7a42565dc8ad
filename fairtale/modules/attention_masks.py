"""Define the causal mask and UniLM's mask, and the layout of sequences in rows.

This file alone determines which tokens a token attends to:

- :class:`CausalRows` (training of ``gpt``): a token attends to itself and to earlier tokens;
- :class:`UniLMRows` (training of ``unilm_seq2seq``): the tokens of a prefix attend to the whole
  prefix, those of a response attend to the prefix and to the response up to themselves;
- :class:`PrefixLayout` (generation, both models): prefixes are read first, with causal attention or
  in both directions.

Outside attention, sequences of different lengths are stored one after another in a single row
without padding. Attention needs one row for each sequence, so the classes copy tokens into such
rows and back. None of them builds a T x T mask over whole sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .attention import SelfAttention

# If the share of real tokens in a batch of prefixes is greater, the prefixes are read with their
# padding: omitting the few padding cells would save less time than the two copies take.
_FULL = 0.9


class PackedRows(Protocol):
    """Sequences in one row without padding, and their attention mask."""

    def attend(self, attention: SelfAttention, qkv: Tensor) -> Tensor:
        """Compute the masked attention within each sequence.

        Args:
            attention: module that defines the number of heads and the dropout.
            qkv: projected queries, keys and values [1, N, 3C].

        Returns:
            The output [1, N, C], before the output projection.
        """
        ...


# ----------------------------------------------------------------------- the causal mask


class CausalRows(NamedTuple):
    """:class:`PackedRows` with causal attention.

    The N tokens are copied into M rows of the length of the longest sequence. The padding of these
    rows holds copies of other tokens. It is at the right, so the causal mask excludes it.
    """

    pad_index: Tensor  # [M, T] int64: for each cell, the token that is copied there
    unpad_index: Tensor  # [N] int64: for each token, its cell in the flattened [M * T]

    def attend(self, attention: SelfAttention, qkv: Tensor) -> Tensor:
        """Attend causally within each sequence, [1, N, 3C] -> [1, N, C]."""
        rows, width = self.pad_index.shape
        cells = self.pad_index.view(-1)
        qkv = repack(qkv[0], cells, self.unpad_index).view(rows, width, -1)
        y = attention.attend_causally(qkv).view(rows * width, -1)
        return repack(y, self.unpad_index, cells).unsqueeze(0)


def packing_index(lengths: Tensor | list[int], width: int | None = None) -> CausalRows:
    """Build the indices for a packed row of sequences of the given ``lengths``.

    Args:
        lengths: lengths of the sequences, int64 [M].
        width: T, the width of the rows for attention; default: the greatest length.
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
    """:class:`PackedRows` of dialogs with UniLM's sequence-to-sequence mask.

    Source: Dong et al. 2019, figure 1. The N tokens are copied into M rows: the prefixes into
    cells 0 to S - 1, the responses into cells S to S + T - 1. Built by :func:`unilm_rows`.
    """

    cells: Tensor  # [M * (S + T)] int64: for each cell, the token that is copied there
    unpad_index: Tensor  # [N] int64: for each token, its cell
    prefix_mask: Tensor  # bool [M, 1, 1, S], True on real tokens
    response_mask: Tensor  # bool [M, 1, T, S + T], True where a response token may attend

    def attend(self, attention: SelfAttention, qkv: Tensor) -> Tensor:
        """Attend within each dialog, [1, N, 3C] -> [1, N, C].

        Two calls of scaled_dot_product_attention compute only the two nonzero blocks of the mask:
        prefix to prefix, S x S, and response to prefix and response, T x (S + T).
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
    """Build the indices and masks for a packed row of dialogs of the given lengths.

    Args:
        prefix_lengths, response_lengths: int64 [M]; a prefix has at least one token.
        s, t: lengths of the longest prefix and response. The caller passes them because reading
            them from the tensors would wait for the device.
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
    # padding cells repeat the first token of their dialog; no real token attends to them
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
    """Layout and mask of prefixes of different lengths while they are read."""

    real: Tensor  # bool [B, 1, 1, S], True on real tokens
    mask: Tensor | None  # `real` for attention in both directions, None for causal attention
    rows: CausalRows | None  # indices if the tokens are packed as [1, N, C]; None for [B, S, C]
    ends: Tensor  # int64 [B]: index of each prefix's last token in its own row
    last: Tensor  # int64 [B]: index of the same token in the flattened input


def lay_out_prefixes(width: int, lengths: Tensor, bidirectional: bool) -> PrefixLayout:
    """Choose the layout for prefixes of the given ``lengths``, padded at the right to ``width``.

    Args:
        width: S.
        lengths: int64 [B], each at least 1.
        bidirectional: attend in both directions within a prefix (UniLM) instead of causally.
    """
    real = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)  # [B, S]
    ends = lengths - 1
    rows: CausalRows | None
    if int(lengths.sum()) > _FULL * real.numel():
        rows, last = None, torch.arange(len(lengths), device=lengths.device) * width + ends
    else:
        rows, last = packing_index(lengths, width), lengths.cumsum(0) - 1
    real = real[:, None, None, :]
    # the causal mask already excludes the padding, which is at the right
    return PrefixLayout(real, real if bidirectional else None, rows, ends, last)


# ------------------------------------------------------------------ copies there and back


def repack(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Return ``x[index]`` along the first dimension, with an efficient gradient.

    Args:
        x: [A, ...].
        index: int64 [B'], the row of ``x`` that each output row copies. Additional copies of a
            row must be padding, with a gradient of zero.
        inverse: int64 [A], the output row that copies each row of ``x``. If the output has fewer
            rows than ``x``, only the length of ``inverse`` is used.
    """
    return _Repack.apply(x, index, inverse)  # type: ignore[no-untyped-call]  # torch's own


class _Repack(torch.autograd.Function):
    """Selection of rows whose gradient is a selection too, instead of a scatter-add."""

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

"""Multi-head self-attention of a decoder-only transformer.

It has three modes: attention within whole rows, attention within prefixes, which are read once,
and attention from new tokens to all earlier tokens. The masks are defined in
:mod:`~fairtale.modules.attention_masks`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_masks import PackedRows, PrefixLayout


class LayerCache(NamedTuple):
    """Cached keys and values of one layer."""

    keys: Tensor  # prefixes: [B, H, S, D]; generated tokens: [R, H, P, D]
    values: Tensor  # the same shape


class SelfAttention(nn.Module):
    """Self-attention with one projection for queries, keys and values.

    Args:
        embed_dim: C, a multiple of ``num_heads``.
        num_heads: H.
        dropout: probability of dropping an attention weight, 0 to 1.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split [B, T, 3C] into queries, keys and values [B, H, T, D], each contiguous.

        One copy makes all three contiguous. On a CPU, scaled_dot_product_attention is 1.3 times
        faster on contiguous tensors.
        """
        b, t, _ = qkv.shape
        qkv = qkv.view(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.contiguous().unbind(0)
        return q, k, v

    def attend_causally(self, qkv: Tensor) -> Tensor:
        """Attend within each row [B, T, 3C] -> [B, T, C], before the output projection."""
        q, k, v = self.split(qkv)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return y.transpose(1, 2).reshape(y.size(0), y.size(2), -1)

    def forward(self, x: Tensor, packed: PackedRows | None = None) -> Tensor:
        """Attend causally within each row, or within packed sequences according to their mask.

        Args:
            x: [B, T, C], padded at the right, so that the causal mask excludes the padding; with
                ``packed``, [1, N, C].
            packed: positions of the sequences in ``x``, and their mask.

        Returns:
            A tensor of the shape of ``x``.
        """
        qkv = self.qkv_proj(x)
        y = self.attend_causally(qkv) if packed is None else packed.attend(self, qkv)
        return self.out_proj(y)

    def read_prefix(
        self, x: Tensor, layout: PrefixLayout, only_last: bool = False
    ) -> tuple[Tensor, LayerCache]:
        """Attend within the prefixes, and return also their keys and values.

        Args:
            x: [B, S, C], or [1, N, C] if the layout has ``rows``.
            layout: positions of the prefixes in ``x``, and their mask.
            only_last: compute the output for the last token of each prefix only.

        Returns:
            The output, of the shape of ``x`` or, with ``only_last``, [B, 1, C]; and the keys and
            values, [B, H, S, D].
        """
        b, _, _, s = layout.real.shape
        qkv = self.qkv_proj(x)
        if layout.rows is not None:
            # padding cells repeat the first token of their row; no real token attends to them
            qkv = qkv[0].index_select(0, layout.rows.pad_index.view(-1)).view(b, s, -1)
        q, k, v = self.split(qkv)
        mask = layout.mask
        if only_last:  # the last token attends to its whole prefix, with a causal mask too
            q = q[torch.arange(b, device=q.device), :, layout.ends].unsqueeze(2)
            mask = layout.real
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        y = y.transpose(1, 2).reshape(b, -1, x.size(2))
        if layout.rows is not None and not only_last:
            y = y.view(b * s, -1).index_select(0, layout.rows.unpad_index).unsqueeze(0)
        return self.out_proj(y), LayerCache(k, v)

    def continue_prefix(
        self,
        x: Tensor,
        prefix: LayerCache,
        prefix_bias: Tensor,
        generated: LayerCache,
        num_generated: int,
    ) -> Tensor:
        """Attend from new tokens to the prefixes and to the generated tokens.

        The prefix of a sentence is not copied for its K beams. Instead, the beams are treated as
        K x T queries of the same keys. One softmax covers the prefix and the generated tokens.

        Args:
            x: the new tokens [R, T, C], R = B * K; the beams of a sentence are consecutive rows.
            prefix: keys and values of the prefixes of B sentences.
            prefix_bias: [B, 1, 1, S], 0 on real tokens and -inf on padding.
            generated: keys and values [R, H, P, D]; those of the new tokens are written into it.
            num_generated: number of tokens already in ``generated``, at most P - T.

        Returns:
            The output [R, T, C].
        """
        r, t, _ = x.shape
        b, h, s, d = prefix.keys.shape
        k = r // b
        q, new_keys, new_values = (
            self.qkv_proj(x).view(r, t, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
        )  # [R, H, T, D]
        end = num_generated + t
        generated.keys[:, :, num_generated:end] = new_keys
        generated.values[:, :, num_generated:end] = new_values
        q = q * d**-0.5
        own = q @ generated.keys[:, :, :end].transpose(2, 3)  # [R, H, T, end]
        if t > 1:
            later = torch.ones(t, end, dtype=torch.bool, device=x.device).triu_(num_generated + 1)
            own = own.masked_fill(later, -torch.inf)
        # [B, H, K * T, .]: the beams of a sentence become rows of one matrix product
        grouped = q.view(b, k, h, t, d).transpose(1, 2).reshape(b, h, k * t, d)
        own = own.view(b, k, h, t, end).transpose(1, 2).reshape(b, h, k * t, end)
        shared = grouped @ prefix.keys.transpose(2, 3) + prefix_bias
        weights = torch.cat([shared, own], -1).softmax(-1, dtype=torch.float32).type_as(x)
        from_prefix = weights[..., :s] @ prefix.values  # [B, H, K * T, D]
        own = weights[..., s:].reshape(b, h, k, t, end).transpose(1, 2).reshape(r, h, t, end)
        y = from_prefix.view(b, h, k, t, d).transpose(1, 2).reshape(r, h, t, d)
        y = y + own @ generated.values[:, :, :end]
        return self.out_proj(y.transpose(1, 2).reshape(r, t, h * d))

"""Attention of sequences whose prefix is read in both directions, without a T x T mask."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import repack


class PrefixRows(NamedTuple):
    """Where the prefixes and the responses of a row without padding stand.

    All sequences of a batch follow one another in a row of N tokens. For attention their
    prefixes are copied into M rows of S cells and their responses into M rows of T cells;
    outside attention there is no padding. Built by :func:`prefix_rows`.
    """

    cells: Tensor  # [M * (S + T)] int64: for each cell the token that is copied there
    unpad_index: Tensor  # [N] int64: for each token its cell
    prefix_mask: Tensor  # bool [M, 1, 1, S], True on real tokens
    response_mask: Tensor  # bool [M, 1, T, S + T], True where a response token may look

    def attend(self, attention, qkv: Tensor) -> Tensor:
        """UniLM's sequence-to-sequence attention (Dong et al. 2019, figure 1).

        Prefix tokens see their whole prefix; response tokens see the prefix and the response
        so far. Two calls of scaled_dot_product_attention compute just these two blocks:
        S x S and T x (S + T).

        Args:
            attention: a :class:`~fairtale.modules.attention.SelfAttention`.
            qkv: projected queries, keys and values [1, N, 3C].

        Returns:
            [1, N, C], before the output projection.
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


def prefix_rows(prefix_lengths: Tensor, response_lengths: Tensor, s: int, t: int) -> PrefixRows:
    """Build the index of a row that holds sequences of these two lengths, one after another.

    Args:
        prefix_lengths, response_lengths: int64 [M]; a prefix has at least one token.
        s, t: the longest of each, known to the caller without asking the device.
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
    # padding cells repeat the sequence's first token; no real token looks at them
    cells = torch.where(real, cells, starts)
    m = len(total)
    causal = torch.ones(t, t, dtype=torch.bool, device=device).tril()
    response_mask = torch.cat([real_prefix.unsqueeze(1).expand(m, t, s), causal.expand(m, t, t)], 2)
    return PrefixRows(
        cells.view(-1),
        real.view(-1).nonzero().squeeze(1),
        real_prefix[:, None, None, :],
        response_mask.unsqueeze(1),
    )

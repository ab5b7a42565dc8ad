"""Read replies in both directions: packed behind their prefixes, or beside cached prefixes.

The tokens of a prefix attend to the whole prefix, as in UniLM; those of a reply attend to the
prefix and to the whole reply.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_masks import UniLMRows, unilm_rows
from .prefix_transformer import PrefixState, PrefixTransformer


def masked_rows(prefix_lengths: Tensor, response_lengths: Tensor, s: int, t: int) -> UniLMRows:
    """Build the indices and masks for a packed row of dialogs; see :func:`unilm_rows`."""
    rows = unilm_rows(prefix_lengths, response_lengths, s, t)
    real = torch.arange(t, device=response_lengths.device) < response_lengths.unsqueeze(1)
    mask = torch.cat([rows.prefix_mask, real[:, None, None, :]], 3)  # [M, 1, 1, S + T]
    return rows._replace(response_mask=mask)


def read_replies(
    transformer: PrefixTransformer, tokens: Tensor, real: Tensor, segment: int, prefix: PrefixState
) -> Tensor:
    """Read K replies to each of B prefixes, and return the features of their N tokens, [N, C].

    The replies to a prefix are one row of attention, so its keys and values are not copied K times.
    Outside attention there is no padding.

    Args:
        transformer: the module that has read the prefixes.
        tokens: int64 [B, K, T], padded at the right; the first has position 0.
        real: bool [B, K, T], True on the N tokens.
        segment: segment id of the tokens.
        prefix: state of the transformer after the prefixes.
    """
    b, k, t = real.shape
    cells = real.view(-1).nonzero().squeeze(1)  # [N]
    words = tokens.view(-1)[cells].unsqueeze(0)
    x = transformer.embed(words, (cells % t).unsqueeze(0), torch.full_like(words, segment))
    number = torch.arange(k, device=tokens.device).repeat_interleave(t)
    own = (number.unsqueeze(1) == number) & real.view(b, 1, 1, k * t)
    before = (prefix.bias == 0).expand(-1, -1, k * t, -1)
    mask = torch.cat([before, own], 3)  # [B, 1, K * T, S + K * T]
    for layer, cache in zip(transformer.layers, prefix.caches):
        qkv = layer.project(x)[0]
        rows = qkv.new_zeros(real.numel(), qkv.size(1)).index_copy_(0, cells, qkv)
        q, keys, values = layer.self_attn.split(rows.view(b, k * t, -1))
        keys, values = torch.cat([cache.keys, keys], 2), torch.cat([cache.values, values], 2)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        y = y.transpose(1, 2).reshape(real.numel(), -1)[cells]
        x = layer.finish(x, y.unsqueeze(0))
    return transformer.final(x)[0]

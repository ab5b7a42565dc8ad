"""The decoder-only transformer behind ``gpt`` and ``unilm_seq2seq``."""

import math
from typing import Callable, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .attention import PackedRows, PrefixCache, PrefixLayout, SelfAttention, packing_index
from .dropout import dropout, dropout_add

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    # fairseq's names: gelu_accurate is the tanh form that GPT-2 uses
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
}


class PrefixState(NamedTuple):
    """Prefixes, read: what is needed to continue them."""

    features: Tensor  # [B, C] of the last prefix token, after the final norm
    caches: list[PrefixCache]  # one a layer
    bias: Tensor  # [B, 1, 1, S], 0 on real tokens and -inf on padding


_FULL = 0.9  # share of real tokens above which leaving the padding out is not worth two copies


def _lay_out(width: int, lengths: Tensor, bidirectional: bool) -> PrefixLayout:
    """Say where the tokens of prefixes of these ``lengths``, padded to ``width``, stand."""
    real = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)  # [B, S]
    ends = lengths - 1
    if int(lengths.sum()) > _FULL * real.numel():
        rows, last = None, torch.arange(len(lengths), device=lengths.device) * width + ends
    else:
        rows, last = packing_index(lengths, width), lengths.cumsum(0) - 1
    real = real[:, None, None, :]
    # causality already hides the padding, which stands at the right
    return PrefixLayout(real, real if bidirectional else None, rows, ends, last)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual connection."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        activation_fn: str,
        normalize_before: bool,
    ):
        super().__init__()
        self.self_attn = SelfAttention(embed_dim, num_heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        self.final_layer_norm = nn.LayerNorm(embed_dim)
        self.dropout = dropout
        self.activation_dropout = activation_dropout
        self.activation = ACTIVATIONS[activation_fn]
        self.normalize_before = normalize_before

    def _ffn(self, x: Tensor) -> Tensor:
        x = self.activation(self.fc1(x))
        return self.fc2(dropout(x, self.activation_dropout, self.training))

    def _around(self, x: Tensor, norm: nn.LayerNorm, sublayer):
        """Residual connection around ``sublayer``."""
        y = sublayer(norm(x) if self.normalize_before else x)
        x = dropout_add(x, y, self.dropout, self.training)
        return x if self.normalize_before else norm(x)

    def forward(self, x: Tensor, packed: Optional[PackedRows] = None) -> Tensor:
        x = self._around(x, self.self_attn_layer_norm, lambda h: self.self_attn(h, packed))
        return self._around(x, self.final_layer_norm, self._ffn)

    def read_prefix(
        self, x: Tensor, layout: PrefixLayout, only_last: bool = False
    ) -> tuple[Tensor, PrefixCache]:
        h = self.self_attn_layer_norm(x) if self.normalize_before else x
        y, cache = self.self_attn.read_prefix(h, layout, only_last)
        if only_last:
            x = x.reshape(-1, x.size(2)).index_select(0, layout.last).unsqueeze(1)
        x = dropout_add(x, y, self.dropout, self.training)
        x = x if self.normalize_before else self.self_attn_layer_norm(x)
        return self._around(x, self.final_layer_norm, self._ffn), cache

    def continue_prefix(self, x: Tensor, *memory) -> Tensor:
        x = self._around(
            x, self.self_attn_layer_norm, lambda h: self.self_attn.continue_prefix(h, *memory)
        )
        return self._around(x, self.final_layer_norm, self._ffn)


class PrefixTransformer(nn.Module):
    """Decoder-only transformer with learned positions and tied output.

    Source: Radford et al. 2019 (GPT-2): pre-norm, weights N(0, 0.02), projections that end
    in a residual connection scaled by 1 / sqrt(2L). Deviation: with
    ``bidirectional_prefix`` prefix tokens see the whole prefix (Dong et al. 2019, UniLM).

    Args:
        vocab_size: V.
        padding_idx: its embedding stays zero.
        embed_dim, num_layers, num_heads, ffn_dim: C, L, H, F.
        max_positions: rows are at most this long.
        num_segments: size of the segment table, 0 for none.
        dropout: on the embeddings and on what each sub-layer adds.
        attention_dropout, activation_dropout: on attention weights, inside the FFN.
        activation_fn: a key of :data:`ACTIVATIONS`.
        normalize_before: LayerNorm before each sub-layer and at the end; else after each.
        checkpoint_activations: compute each layer again in the backward pass.
        bidirectional_prefix: attend in both directions over a prefix.
    """

    def __init__(
        self,
        vocab_size: int,
        padding_idx: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        max_positions: int,
        num_segments: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation_fn: str = "gelu_accurate",
        normalize_before: bool = True,
        checkpoint_activations: bool = False,
        bidirectional_prefix: bool = False,
    ):
        super().__init__()
        self.max_positions = max_positions
        self.dropout = dropout
        self.checkpoint_activations = checkpoint_activations
        self.bidirectional_prefix = bidirectional_prefix
        self.embed_tokens = nn.Embedding(vocab_size, embed_dim, padding_idx)
        self.embed_positions = nn.Embedding(max_positions, embed_dim)
        self.embed_segments = nn.Embedding(num_segments, embed_dim) if num_segments else None
        self.layers = nn.ModuleList(
            TransformerLayer(
                embed_dim,
                num_heads,
                ffn_dim,
                dropout,
                attention_dropout,
                activation_dropout,
                activation_fn,
                normalize_before,
            )
            for _ in range(num_layers)
        )
        self.layer_norm = nn.LayerNorm(embed_dim) if normalize_before else None
        self.reset_parameters()

    def reset_parameters(self):
        """Draw GPT-2's initial weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.embed_tokens.weight[self.embed_tokens.padding_idx])
        for layer in self.layers:
            for projection in (layer.self_attn.out_proj, layer.fc2):
                nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * len(self.layers)))

    def embed(self, tokens: Tensor, positions: Tensor, segments: Optional[Tensor]) -> Tensor:
        """Sum the embeddings [B, T, C] of tokens, positions (broadcast) and segments."""
        x = self.embed_tokens(tokens) + self.embed_positions(positions)
        if segments is not None:
            x = x + self.embed_segments(segments)
        return dropout(x, self.dropout, self.training)

    def _check_length(self, length: int):
        if length > self.max_positions:
            raise UserError(
                f"a row of {length} tokens is longer than the model's {self.max_positions} "
                "positions: shorten the text, or train with a larger --tokens-per-sample"
            )

    def _norm(self, x: Tensor) -> Tensor:
        return x if self.layer_norm is None else self.layer_norm(x)

    def forward(
        self,
        tokens: Tensor,
        positions: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
        packed: Optional[PackedRows] = None,
    ) -> Tensor:
        """Return the features [B, T, C] of whole rows.

        Args:
            tokens: int64 [B, T], padding at the right; with ``packed`` [1, N].
            positions: int64 [B, T]; default 0 to T - 1. Packed rows must give theirs.
            segments: int64 [B, T].
            packed: sequences stand in one row without padding and do not see each other.

        Raises:
            UserError: a row longer than the positions there are.
        """
        if positions is None:
            self._check_length(tokens.size(1))
            positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.embed(tokens, positions, segments)
        for layer in self.layers:
            if self.checkpoint_activations and self.training:
                x = checkpoint(layer, x, packed, use_reentrant=False)
            else:
                x = layer(x, packed)
        return self._norm(x)

    def read_prefix(
        self,
        tokens: Tensor,
        lengths: Tensor,
        positions: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
        bidirectional: Optional[bool] = None,
    ) -> PrefixState:
        """Read prefixes of different lengths in one pass.

        Args:
            tokens: int64 [B, S], padding at the right.
            lengths: int64 [B], each at least 1.
            positions, segments: as in :meth:`forward`.
            bidirectional: default as the model was built.
        """
        if bidirectional is None:
            bidirectional = self.bidirectional_prefix
        if positions is None:
            self._check_length(tokens.size(1))
            positions = torch.arange(tokens.size(1), device=tokens.device)
        layout = _lay_out(tokens.size(1), lengths, bidirectional)
        if layout.rows is not None:
            unpad = layout.rows.unpad_index
            positions = positions.expand(tokens.shape).reshape(-1)[unpad].unsqueeze(0)
            segments = None if segments is None else segments.reshape(-1)[unpad].unsqueeze(0)
            tokens = tokens.reshape(-1)[unpad].unsqueeze(0)
        x = self.embed(tokens, positions, segments)
        caches = []
        for number, layer in enumerate(self.layers, start=1):
            # of the last layer, nothing but each prefix's last token is looked at
            x, cache = layer.read_prefix(x, layout, only_last=number == len(self.layers))
            caches.append(cache)
        bias = torch.zeros_like(layout.real, dtype=x.dtype)
        bias = bias.masked_fill_(~layout.real, -torch.inf)
        return PrefixState(self._norm(x.squeeze(1)), caches, bias)

    def continue_prefix(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Optional[Tensor],
        prefix: PrefixState,
        past: list[PrefixCache],
        past_length: int,
    ) -> Tensor:
        """Return the features [R, T, C] of tokens that follow the prefixes.

        Args:
            tokens: the new tokens [R, T], R = B * K.
            positions, segments: int64 [R, T].
            past: one a layer, [R, H, P, D] with P >= past_length + T; filled further here.
            past_length: how many generated tokens ``past`` already holds.
        """
        x = self.embed(tokens, positions, segments)
        for layer, cache, own in zip(self.layers, prefix.caches, past):
            x = layer.continue_prefix(x, cache, prefix.bias, own.keys, own.values, past_length)
        return self._norm(x)

    def logits(self, features: Tensor) -> Tensor:
        """Project features [..., C] to the vocabulary [..., V] with the tied embedding."""
        return F.linear(features, self.embed_tokens.weight)

"""The decoder-only transformer of the models ``gpt`` and ``unilm_seq2seq``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .attention import LayerCache, SelfAttention
from .attention_masks import PackedRows, PrefixLayout, lay_out_prefixes
from .dropout import dropout, dropout_add

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    # names as in fairseq; gelu_accurate is the tanh approximation that GPT-2 uses
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # Hendrycks and Gimpel 2016, section 2
}


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of a transformer, and the structure of its layers."""

    embed_dim: int  # C
    num_layers: int  # L
    num_heads: int  # H, divides C
    ffn_dim: int  # F
    activation_fn: str = "gelu_accurate"  # a key of ACTIVATIONS
    normalize_before: bool = True  # LayerNorm before each sub-layer and at the end; else after each
    layer_norm_eps: float = 1e-5  # added to the variance in LayerNorm
    untied_output: bool = False  # a matrix of its own projects to the vocabulary
    initializer_range: float = 0.02  # standard deviation of the initial weights


@dataclass(frozen=True)
class DropoutRates:
    """Dropout probabilities in training, 0 to 1."""

    sublayer: float = 0.0  # on the embeddings and on the output of each sub-layer
    attention: float = 0.0  # on attention weights
    activation: float = 0.0  # after the activation of the FFN


NO_DROPOUT = DropoutRates()


class PrefixState(NamedTuple):
    """State of the transformer after reading prefixes, which is needed to continue them."""

    features: Tensor  # [B, C]: features of each prefix's last token, after the final norm
    caches: list[LayerCache]  # one for each layer
    bias: Tensor  # [B, 1, 1, S], 0 on real tokens and -inf on padding


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual connection."""

    def __init__(self, shape: TransformerShape, rates: DropoutRates) -> None:
        super().__init__()
        width = shape.embed_dim
        self.self_attn = SelfAttention(width, shape.num_heads, rates.attention)
        self.self_attn_layer_norm = nn.LayerNorm(width, shape.layer_norm_eps)
        self.fc1 = nn.Linear(width, shape.ffn_dim)
        self.fc2 = nn.Linear(shape.ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width, shape.layer_norm_eps)
        self.dropout = rates.sublayer
        self.activation_dropout = rates.activation
        self.activation = ACTIVATIONS[shape.activation_fn]
        self.normalize_before = shape.normalize_before

    def _ffn(self, x: Tensor) -> Tensor:
        x = self.activation(self.fc1(x))
        return self.fc2(dropout(x, self.activation_dropout, self.training))

    def _around(
        self, x: Tensor, norm: nn.LayerNorm, sublayer: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Apply ``sublayer`` with its norm, dropout and residual connection."""
        y = sublayer(norm(x) if self.normalize_before else x)
        x = dropout_add(x, y, self.dropout, self.training)
        return x if self.normalize_before else norm(x)

    def project(self, x: Tensor) -> Tensor:
        """Return the queries, keys and values [..., 3C] of the inputs [..., C]."""
        return self.self_attn.qkv_proj(self.self_attn_layer_norm(x) if self.normalize_before else x)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the output for the inputs and what their attention found, all [..., C]."""
        y = self.self_attn.out_proj(attended)
        x = dropout_add(x, y, self.dropout, self.training)
        x = x if self.normalize_before else self.self_attn_layer_norm(x)
        return self._around(x, self.final_layer_norm, self._ffn)

    def forward(self, x: Tensor, packed: PackedRows | None = None) -> Tensor:
        """Read whole rows; see :meth:`SelfAttention.forward`."""
        x = self._around(x, self.self_attn_layer_norm, lambda h: self.self_attn(h, packed))
        return self._around(x, self.final_layer_norm, self._ffn)

    def read_prefix(
        self, x: Tensor, layout: PrefixLayout, only_last: bool = False
    ) -> tuple[Tensor, LayerCache]:
        """Read prefixes; see :meth:`SelfAttention.read_prefix`."""
        h = self.self_attn_layer_norm(x) if self.normalize_before else x
        y, cache = self.self_attn.read_prefix(h, layout, only_last)
        if only_last:
            x = x.reshape(-1, x.size(2)).index_select(0, layout.last).unsqueeze(1)
        x = dropout_add(x, y, self.dropout, self.training)
        x = x if self.normalize_before else self.self_attn_layer_norm(x)
        return self._around(x, self.final_layer_norm, self._ffn), cache

    def continue_prefix(
        self,
        x: Tensor,
        prefix: LayerCache,
        prefix_bias: Tensor,
        generated: LayerCache,
        num_generated: int,
    ) -> Tensor:
        """Read tokens that follow prefixes; see :meth:`SelfAttention.continue_prefix`."""
        attend = self.self_attn.continue_prefix
        x = self._around(
            x,
            self.self_attn_layer_norm,
            lambda h: attend(h, prefix, prefix_bias, generated, num_generated),
        )
        return self._around(x, self.final_layer_norm, self._ffn)


class PrefixTransformer(nn.Module):
    """Decoder-only transformer with learned positions, and by default with tied output embedding.

    Source: Radford et al. 2019 (GPT-2): pre-norm; initial weights N(0, 0.02), scaled by
    1 / sqrt(2L) in projections before a residual connection. Deviation: with
    ``bidirectional_prefix``, the tokens of a prefix attend to the whole prefix (UniLM, Dong et
    al. 2019).

    Args:
        vocab_size: V.
        padding_idx: the padding token, whose embedding stays zero.
        max_positions: maximum length of a row.
        shape: sizes and structure of the layers.
        rates: dropout probabilities.
        num_segments: number of segment embeddings, 0 for none.
        checkpoint_activations: recompute the activations of each layer in the backward pass.
        bidirectional_prefix: attend in both directions within a prefix.
        num_predicted: the first entries of the vocabulary, which alone can be predicted; default:
            all. The others are only inputs.
    """

    def __init__(
        self,
        vocab_size: int,
        padding_idx: int,
        max_positions: int,
        shape: TransformerShape,
        rates: DropoutRates = NO_DROPOUT,
        *,
        num_segments: int = 0,
        checkpoint_activations: bool = False,
        bidirectional_prefix: bool = False,
        num_predicted: int | None = None,
    ) -> None:
        super().__init__()
        width = shape.embed_dim
        self.num_predicted = vocab_size if num_predicted is None else num_predicted
        self.padding_idx = padding_idx
        self.max_positions = max_positions
        self.dropout = rates.sublayer
        self.checkpoint_activations = checkpoint_activations
        self.bidirectional_prefix = bidirectional_prefix
        self.embed_tokens = nn.Embedding(vocab_size, width, padding_idx)
        self.embed_positions = nn.Embedding(max_positions, width)
        self.embed_segments = nn.Embedding(num_segments, width) if num_segments else None
        layers = nn.ModuleList(TransformerLayer(shape, rates) for _ in range(shape.num_layers))
        self.layers = cast("Sequence[TransformerLayer]", layers)
        self.layer_norm = (
            nn.LayerNorm(width, shape.layer_norm_eps) if shape.normalize_before else None
        )
        self.output_projection = (
            nn.Linear(width, self.num_predicted, bias=False) if shape.untied_output else None
        )
        self.reset_parameters(shape.initializer_range)

    def reset_parameters(self, std: float = 0.02) -> None:
        """Initialise the weights as in GPT-2, with the given standard deviation."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=std)
        nn.init.zeros_(self.embed_tokens.weight[self.padding_idx])
        for layer in self.layers:
            for projection in (layer.self_attn.out_proj, layer.fc2):
                nn.init.normal_(projection.weight, std=std / math.sqrt(2 * len(self.layers)))

    def embed(self, tokens: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
        """Return the sum [B, T, C] of token, position (broadcast) and segment embeddings."""
        x = self.embed_tokens(tokens) + self.embed_positions(positions)
        if segments is not None:
            assert self.embed_segments is not None, "the model was built without segments"
            x = x + self.embed_segments(segments)
        return dropout(x, self.dropout, self.training)

    def _check_length(self, length: int) -> None:
        if length > self.max_positions:
            raise UserError(
                f"a row of {length} tokens is longer than the model's {self.max_positions} "
                "positions: shorten the text, or train with a larger --tokens-per-sample"
            )

    def final(self, x: Tensor) -> Tensor:
        """Apply the norm after the last layer, if there is one."""
        return x if self.layer_norm is None else self.layer_norm(x)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        packed: PackedRows | None = None,
    ) -> Tensor:
        """Return the features [B, T, C] of whole rows.

        Args:
            tokens: int64 [B, T], padded at the right; with ``packed``, [1, N].
            positions: int64 [B, T]; default: 0 to T - 1. They are required with ``packed``.
            segments: int64 [B, T].
            packed: layout of the sequences in one row without padding, and their mask.

        Raises:
            UserError: a row has more tokens than the model has positions.
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
        return self.final(x)

    def read_prefix(
        self,
        tokens: Tensor,
        lengths: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        bidirectional: bool | None = None,
    ) -> PrefixState:
        """Read prefixes of different lengths in one pass.

        Args:
            tokens: int64 [B, S], padded at the right.
            lengths: int64 [B], each at least 1.
            positions, segments: as in :meth:`forward`.
            bidirectional: attend in both directions within a prefix; default:
                ``bidirectional_prefix``.
        """
        if bidirectional is None:
            bidirectional = self.bidirectional_prefix
        if positions is None:
            self._check_length(tokens.size(1))
            positions = torch.arange(tokens.size(1), device=tokens.device)
        layout = lay_out_prefixes(tokens.size(1), lengths, bidirectional)
        if layout.rows is not None:
            unpad = layout.rows.unpad_index
            positions = positions.expand(tokens.shape).reshape(-1)[unpad].unsqueeze(0)
            segments = None if segments is None else segments.reshape(-1)[unpad].unsqueeze(0)
            tokens = tokens.reshape(-1)[unpad].unsqueeze(0)
        x = self.embed(tokens, positions, segments)
        caches = []
        for number, layer in enumerate(self.layers, start=1):
            # the last layer's output is needed only for the last token of each prefix
            x, cache = layer.read_prefix(x, layout, only_last=number == len(self.layers))
            caches.append(cache)
        bias = torch.zeros_like(layout.real, dtype=x.dtype)
        bias = bias.masked_fill_(~layout.real, -torch.inf)
        return PrefixState(self.final(x.squeeze(1)), caches, bias)

    def continue_prefix(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Tensor | None,
        prefix: PrefixState,
        generated: list[LayerCache],
        num_generated: int,
    ) -> Tensor:
        """Return the features [R, T, C] of tokens that follow the prefixes.

        Args:
            tokens: the new tokens, int64 [R, T], R = B * K.
            positions, segments: int64 [R, T].
            prefix: state of the B prefixes.
            generated: keys and values [R, H, P, D] of each layer; those of the new tokens are
                written into them.
            num_generated: number of tokens already in ``generated``, at most P - T.
        """
        x = self.embed(tokens, positions, segments)
        for layer, cache, own in zip(self.layers, prefix.caches, generated):
            x = layer.continue_prefix(x, cache, prefix.bias, own, num_generated)
        return self.final(x)

    def output_weight(self) -> Tensor:
        """Return the weight of the projection to the entries that can be predicted, [V', C]."""
        if self.output_projection is not None:
            return self.output_projection.weight
        weight = self.embed_tokens.weight
        return weight if self.num_predicted == weight.size(0) else weight[: self.num_predicted]

    def logits(self, features: Tensor) -> Tensor:
        """Project features [..., C] to the vocabulary [..., V].

        The logits of entries that cannot be predicted are -inf.
        """
        logits = F.linear(features, self.output_weight())
        unpredicted = self.embed_tokens.num_embeddings - self.num_predicted
        return F.pad(logits, (0, unpredicted), value=-torch.inf) if unpredicted else logits

    def features_for_loss(self, features: Tensor) -> Tensor:
        """Return the features, from which the caller computes logits with :meth:`output_weight`.

        Such a product is outside of the forward pass. The result depends on an untied weight all
        the same (with no gradient), or else DDP with ``--find-unused-parameters`` would take the
        weight for unused and fail.
        """
        if self.output_projection is None or not torch.is_grad_enabled():
            return features
        depend_on: Callable[[Tensor, Tensor], Tensor] = _Used.apply
        return depend_on(features, self.output_projection.weight)


class _Used(Function):
    """Return a tensor as the result of an operation that has a weight as its second input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None

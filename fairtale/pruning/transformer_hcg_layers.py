"""Encoder and decoder of ``transformer_hcg``, with gates on heads and pruned layers.

The classes override fairseq's build methods, so parts that are neither gated nor pruned are
fairseq's own.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from fairseq.data import Dictionary
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.models.transformer.transformer_config import QuantNoiseConfig
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import Tensor, nn

from ..modules.gated_attention import GatedAttention, GatedNarrowAttention
from ..modules.hard_concrete import HardConcreteGate
from ..modules.narrow_attention import BiasOnly, NarrowAttention
from .transformer_hcg_config import AttentionShape, LayerShape, TransformerHCGConfig


def build_attention(
    shape: AttentionShape, embed_dim: int, noise: QuantNoiseConfig, **options: Any
) -> nn.Module | None:
    """Build a gated attention, a pruned one, or one that is both; return None for fairseq's own.

    Args:
        shape: heads and gates of the attention.
        embed_dim: C.
        noise: quantisation noise of the projections of a pruned attention.
        options: further options, which fairseq's attention and the others have in common.
    """
    gate = None
    if shape.gate is not None and shape.num_heads > 0:
        gate = HardConcreteGate(shape.num_heads, **asdict(shape.gate))
    if shape.is_pruned and gate is not None:
        return GatedNarrowAttention(embed_dim, shape.num_heads, shape.head_dim, gate, **options)
    if shape.is_pruned:
        pruned = NarrowAttention(embed_dim, shape.num_heads, shape.head_dim, **options)
        for projection in pruned.children():
            if isinstance(projection, nn.Linear):
                quant_noise(projection, noise.pq, noise.pq_block_size)
        return pruned
    if gate is not None:
        return GatedAttention(embed_dim, shape.num_heads, gate, **options)
    return None


class _PrunedFFN:
    """Build methods of an FFN with the units of ``self.shape``, for both kinds of layer."""

    shape: LayerShape

    def build_fc1(self, input_dim: int, output_dim: int, *noise: Any) -> nn.Module:
        """Build the first linear layer of the FFN."""
        units, parent = self.shape.ffn_units, cast(Any, super())
        return parent.build_fc1(input_dim, units, *noise) if units else nn.Identity()

    def build_fc2(self, input_dim: int, output_dim: int, *noise: Any) -> nn.Module:
        """Build the second linear layer of the FFN."""
        units, parent = self.shape.ffn_units, cast(Any, super())
        return parent.build_fc2(units, output_dim, *noise) if units else BiasOnly(output_dim)


class HCGEncoderLayer(_PrunedFFN, TransformerEncoderLayerBase):
    """fairseq's encoder layer; its heads may have gates, and its sub-layers may be pruned.

    Args:
        cfg: config of the model.
        shape: widths of this layer.
        return_fc: as in fairseq.
    """

    def __init__(
        self, cfg: TransformerHCGConfig, shape: LayerShape, return_fc: bool = False
    ) -> None:
        self.shape = shape  # before the parent's constructor, which calls the build methods
        super().__init__(cfg, return_fc)

    def build_self_attention(self, embed_dim: int, cfg: TransformerHCGConfig) -> nn.Module:
        """Build the self-attention."""
        attention = build_attention(
            self.shape.self_attention,
            embed_dim,
            cfg.quant_noise,
            dropout=cfg.attention_dropout,
            self_attention=True,
        )
        return super().build_self_attention(embed_dim, cfg) if attention is None else attention


class HCGDecoderLayer(_PrunedFFN, TransformerDecoderLayerBase):
    """fairseq's decoder layer; its heads may have gates, and its sub-layers may be pruned.

    Args:
        cfg: config of the model.
        shape: widths of this layer.
        no_encoder_attn: as in fairseq.
    """

    def __init__(
        self, cfg: TransformerHCGConfig, shape: LayerShape, no_encoder_attn: bool = False
    ) -> None:
        self.shape = shape  # before the parent's constructor, which calls the build methods
        super().__init__(cfg, no_encoder_attn)

    def build_self_attention(
        self,
        embed_dim: int,
        cfg: TransformerHCGConfig,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
    ) -> nn.Module:
        """Build the self-attention."""
        attention = build_attention(
            self.shape.self_attention,
            embed_dim,
            cfg.quant_noise,
            dropout=cfg.attention_dropout,
            self_attention=not cfg.cross_self_attention,
        )
        if attention is None:
            return super().build_self_attention(embed_dim, cfg, add_bias_kv, add_zero_attn)
        return attention

    def build_encoder_attention(self, embed_dim: int, cfg: TransformerHCGConfig) -> nn.Module:
        """Build the cross attention."""
        assert self.shape.cross_attention is not None
        attention = build_attention(
            self.shape.cross_attention,
            embed_dim,
            cfg.quant_noise,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
            kdim=cfg.encoder.embed_dim,
            vdim=cfg.encoder.embed_dim,
        )
        return super().build_encoder_attention(embed_dim, cfg) if attention is None else attention


def _wrapped(layer: nn.Module, cfg: TransformerHCGConfig) -> nn.Module:
    """Wrap a layer in the same way as fairseq wraps its own layers."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    # a layer with activation checkpointing is always wrapped for fully sharded training
    return fsdp_wrap(
        layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap
    )


class HCGEncoder(TransformerEncoderBase):
    """fairseq's encoder with layers of different shapes.

    Args:
        cfg: config of the model.
        dictionary: source dictionary.
        embed_tokens: source embedding.
        shapes: shapes of the layers, in order.
    """

    def __init__(
        self,
        cfg: TransformerHCGConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Embedding,
        shapes: Sequence[LayerShape],
    ) -> None:
        # before the parent's constructor, which builds the layers one after another
        self._shapes = iter(shapes)
        super().__init__(cfg, dictionary, embed_tokens)

    def build_encoder_layer(self, cfg: TransformerHCGConfig) -> nn.Module:
        """Build the next layer."""
        return _wrapped(HCGEncoderLayer(cfg, next(self._shapes), return_fc=self.return_fc), cfg)


class HCGDecoder(TransformerDecoderBase):
    """fairseq's decoder with layers of different shapes.

    Args:
        cfg: config of the model.
        dictionary: target dictionary.
        embed_tokens: target embedding.
        shapes: shapes of the layers, in order.
        no_encoder_attn: build no cross attention.
    """

    def __init__(
        self,
        cfg: TransformerHCGConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Embedding,
        shapes: Sequence[LayerShape],
        no_encoder_attn: bool = False,
    ) -> None:
        # before the parent's constructor, which builds the layers one after another
        self._shapes = iter(shapes)
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn=no_encoder_attn)

    def build_decoder_layer(
        self, cfg: TransformerHCGConfig, no_encoder_attn: bool = False
    ) -> nn.Module:
        """Build the next layer."""
        return _wrapped(HCGDecoderLayer(cfg, next(self._shapes), no_encoder_attn), cfg)

    def extract_features(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the result of fairseq's decoder with contiguous features [B, T, C].

        fairseq's features are a transposed view. If the output projection needs no gradient
        (``--freeze``), torch would multiply such a view with a copy of the weight for each row.
        """
        features, extra = super().extract_features(*args, **kwargs)
        return features.clone(memory_format=torch.contiguous_format), extra

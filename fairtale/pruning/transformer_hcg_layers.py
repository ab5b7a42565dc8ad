"""The parts of ``transformer_hcg``: fairseq's, with gates on heads, and with few heads and units.

They use fairseq's build hooks, so whatever is neither gated nor pruned is fairseq's own.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import Tensor, nn

from ..modules.gated_attention import GatedAttention, GatedNarrowAttention
from ..modules.hard_concrete import HardConcreteGate
from ..modules.narrow_attention import BiasOnly, NarrowAttention
from .transformer_hcg_config import AttentionShape, LayerShape, TransformerHCGConfig


def build_attention(shape: AttentionShape, embed_dim: int, **options: Any) -> nn.Module | None:
    """Build a gated attention, a pruned one, or both; return None where fairseq's will do.

    Args:
        embed_dim: C.
        options: of fairseq's attention that the others know too.
    """
    gate = None
    if shape.gate is not None and shape.num_heads > 0:
        gate = HardConcreteGate(shape.num_heads, **asdict(shape.gate))
    if shape.is_pruned and gate is not None:
        return GatedNarrowAttention(embed_dim, shape.num_heads, shape.head_dim, gate, **options)
    if shape.is_pruned:
        return NarrowAttention(embed_dim, shape.num_heads, shape.head_dim, **options)
    if gate is not None:
        return GatedAttention(embed_dim, shape.num_heads, gate, **options)
    return None


class HCGEncoderLayer(TransformerEncoderLayerBase):
    """fairseq's encoder layer; its heads may have gates, its sub-layers may be pruned.

    Args:
        cfg: of the model.
        shape: the widths of this layer.
        return_fc: fairseq's.
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
            dropout=cfg.attention_dropout,
            self_attention=True,
        )
        return super().build_self_attention(embed_dim, cfg) if attention is None else attention

    def build_fc1(self, input_dim: int, output_dim: int, *quant_noise: Any) -> nn.Module:
        """Build the first linear layer of the FFN."""
        units = self.shape.ffn_units
        return super().build_fc1(input_dim, units, *quant_noise) if units else nn.Identity()

    def build_fc2(self, input_dim: int, output_dim: int, *quant_noise: Any) -> nn.Module:
        """Build the second linear layer of the FFN."""
        units = self.shape.ffn_units
        return super().build_fc2(units, output_dim, *quant_noise) if units else BiasOnly(output_dim)


class HCGDecoderLayer(TransformerDecoderLayerBase):
    """fairseq's decoder layer; its heads may have gates, its sub-layers may be pruned.

    Args:
        cfg: of the model.
        shape: the widths of this layer.
        no_encoder_attn: fairseq's.
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
            dropout=cfg.attention_dropout,
            self_attention=not cfg.cross_self_attention,
        )
        if attention is None:
            return super().build_self_attention(embed_dim, cfg, add_bias_kv, add_zero_attn)
        return attention

    def build_encoder_attention(self, embed_dim: int, cfg: TransformerHCGConfig) -> nn.Module:
        """Build the attention to the encoder."""
        assert self.shape.cross_attention is not None
        attention = build_attention(
            self.shape.cross_attention,
            embed_dim,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
            kdim=cfg.encoder.embed_dim,
            vdim=cfg.encoder.embed_dim,
        )
        return super().build_encoder_attention(embed_dim, cfg) if attention is None else attention

    def build_fc1(self, input_dim: int, output_dim: int, *quant_noise: Any) -> nn.Module:
        """Build the first linear layer of the FFN."""
        units = self.shape.ffn_units
        return super().build_fc1(input_dim, units, *quant_noise) if units else nn.Identity()

    def build_fc2(self, input_dim: int, output_dim: int, *quant_noise: Any) -> nn.Module:
        """Build the second linear layer of the FFN."""
        units = self.shape.ffn_units
        return super().build_fc2(units, output_dim, *quant_noise) if units else BiasOnly(output_dim)


def _wrapped(layer: nn.Module, cfg: TransformerHCGConfig) -> nn.Module:
    """Wrap a layer as fairseq wraps each layer that it builds."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    # a checkpointed layer is always a unit of fully sharded training
    return fsdp_wrap(
        layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap
    )


class HCGEncoder(TransformerEncoderBase):
    """fairseq's encoder, of layers that have shapes of their own.

    Args:
        cfg: of the model.
        dictionary: of the source.
        embed_tokens: the source's embedding.
        shapes: of the layers, in order.
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
    """fairseq's decoder, of layers that have shapes of their own.

    Args:
        cfg: of the model.
        dictionary: of the target.
        embed_tokens: the target's embedding.
        shapes: of the layers, in order.
        no_encoder_attn: without attention to the encoder.
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
        """Return what fairseq's decoder does, with features [B, T, C] contiguous in this order.

        fairseq transposes them. Projected by a weight that needs no gradient (--freeze), such
        features would make torch multiply with one copy of the weight for each row.
        """
        features, extra = super().extract_features(*args, **kwargs)
        return features.clone(memory_format=torch.contiguous_format), extra

"""``transformer_hcg``: fairseq's transformer with gates on heads, and shapes of pruned models."""

from dataclasses import fields

import torch
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.distributed import fsdp_wrap
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModel,
    transformer_legacy,
)
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import nn

from fairtale.errors import UserError
from fairtale.modules.gated_attention import GatedAttention, GatedNarrowAttention
from fairtale.modules.hard_concrete import HardConcreteGate
from fairtale.modules.narrow_attention import BiasOnly, NarrowAttention
from fairtale.pruning.parts import HEAD_TYPES, SIDES, attentions, feed_forwards
from fairtale.pruning.transformer_config import (
    TransformerHCGConfig,
    check_config,
    counts_of,
    ffn_units,
    head_lists,
    names_of,
)


def _build_attention(kind: str, layer: int, embed_dim: int, cfg, **options):
    """Build the attention of a layer: fairseq's, gated, pruned, or both.

    Args:
        kind: encoder, decoder or cross.
        options: of fairseq's attention that the others know too.
    """
    text, config = {k: (text, config) for k, text, config in head_lists(cfg)}[kind]
    num_heads, head_dim = config.attention_heads, embed_dim // config.attention_heads
    counts = counts_of(f"--{kind}-layer-heads", text, config.layers)
    heads = counts[layer] if counts else num_heads
    gate = None
    if heads and kind in names_of("--gated-attention", cfg.gated_attention, HEAD_TYPES):
        gate = HardConcreteGate(
            heads,
            temperature=cfg.gate_temperature,
            low=cfg.gate_low,
            high=cfg.gate_high,
            init_log_alpha=cfg.gate_init_log_alpha,
            lr_scale=cfg.gate_lr_scale,
        )
    if counts and gate:
        return GatedNarrowAttention(embed_dim, heads, head_dim, gate, **options)
    if counts:
        return NarrowAttention(embed_dim, heads, head_dim, **options)
    return GatedAttention(embed_dim, num_heads, gate, **options) if gate else None


# ------------------------------------------------------------------------- the parts


class HCGEncoderLayer(TransformerEncoderLayerBase):
    """fairseq's encoder layer; its heads may have gates, its sub-layers may be pruned.

    Args:
        layer: which one, from 0.
    """

    def __init__(self, cfg, layer: int, return_fc=False):
        self.layer = layer
        self.hcg_cfg = cfg
        super().__init__(cfg, return_fc)

    def build_self_attention(self, embed_dim, cfg):
        attention = _build_attention(
            "encoder",
            self.layer,
            embed_dim,
            cfg,
            dropout=cfg.attention_dropout,
            self_attention=True,
        )
        return attention or super().build_self_attention(embed_dim, cfg)

    def build_fc1(self, input_dim, output_dim, *quant_noise):
        units = ffn_units("--encoder-layer-ffn", self.hcg_cfg.encoder, self.layer, output_dim)
        return super().build_fc1(input_dim, units, *quant_noise) if units else nn.Identity()

    def build_fc2(self, input_dim, output_dim, *quant_noise):
        units = ffn_units("--encoder-layer-ffn", self.hcg_cfg.encoder, self.layer, input_dim)
        return super().build_fc2(units, output_dim, *quant_noise) if units else BiasOnly(output_dim)


class HCGDecoderLayer(TransformerDecoderLayerBase):
    """fairseq's decoder layer; its heads may have gates, its sub-layers may be pruned.

    Args:
        layer: which one, from 0.
    """

    def __init__(self, cfg, layer: int, no_encoder_attn=False):
        self.layer = layer
        self.hcg_cfg = cfg
        super().__init__(cfg, no_encoder_attn)

    def build_self_attention(self, embed_dim, cfg, add_bias_kv=False, add_zero_attn=False):
        attention = _build_attention(
            "decoder",
            self.layer,
            embed_dim,
            cfg,
            dropout=cfg.attention_dropout,
            self_attention=not cfg.cross_self_attention,
        )
        return attention or super().build_self_attention(embed_dim, cfg, add_bias_kv, add_zero_attn)

    def build_encoder_attention(self, embed_dim, cfg):
        attention = _build_attention(
            "cross",
            self.layer,
            embed_dim,
            cfg,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
            kdim=cfg.encoder.embed_dim,
            vdim=cfg.encoder.embed_dim,
        )
        return attention or super().build_encoder_attention(embed_dim, cfg)

    def build_fc1(self, input_dim, output_dim, *quant_noise):
        units = ffn_units("--decoder-layer-ffn", self.hcg_cfg.decoder, self.layer, output_dim)
        return super().build_fc1(input_dim, units, *quant_noise) if units else nn.Identity()

    def build_fc2(self, input_dim, output_dim, *quant_noise):
        units = ffn_units("--decoder-layer-ffn", self.hcg_cfg.decoder, self.layer, input_dim)
        return super().build_fc2(units, output_dim, *quant_noise) if units else BiasOnly(output_dim)


def _wrapped(layer, cfg):
    """What fairseq does with each layer that it builds."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    # a checkpointed layer is always a unit of fully sharded training
    return fsdp_wrap(
        layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap
    )


class HCGEncoder(TransformerEncoderBase):
    """fairseq's encoder, of layers that know which one they are."""

    def __init__(self, cfg, *args, **kwargs):
        self.num_built = 0
        super().__init__(cfg, *args, **kwargs)

    def build_encoder_layer(self, cfg):
        layer = HCGEncoderLayer(cfg, self.num_built, return_fc=self.return_fc)
        self.num_built += 1
        return _wrapped(layer, cfg)


class HCGDecoder(TransformerDecoderBase):
    """fairseq's decoder, of layers that know which one they are."""

    def __init__(self, cfg, *args, **kwargs):
        self.num_built = 0
        super().__init__(cfg, *args, **kwargs)

    def extract_features(self, *args, **kwargs):
        """As fairseq's, with features [B, T, C] that lie in this order.

        fairseq transposes them. Projected by a weight that needs no gradient (--freeze), such
        features would make torch multiply with one copy of the weight for each row.
        """
        features, extra = super().extract_features(*args, **kwargs)
        return features.clone(memory_format=torch.contiguous_format), extra

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        layer = HCGDecoderLayer(cfg, self.num_built, no_encoder_attn)
        self.num_built += 1
        return _wrapped(layer, cfg)


# ------------------------------------------------------------------------- the model


@register_model("transformer_hcg")
class TransformerHCGModel(TransformerModel):
    """fairseq's transformer with a hard concrete gate for each head.

    Source: Voita et al. 2019. Without gates, or with all of them open, it is fairseq's
    ``transformer``, parameter for parameter, and loads its checkpoints; gates are added open.
    Registered as ``transformer`` is, by arguments and not by dataclass: fairseq loses the
    options of a nested dataclass that are given on the command line.
    """

    def __init__(self, cfg, encoder, decoder):
        super().__init__(cfg, encoder, decoder)
        self.num_updates = 0
        self._attention_unseen = False
        self.frozen = names_of("--freeze", cfg.freeze, SIDES)
        for part in self._frozen_parts():
            gates = {id(p) for gate in _gates_in(part) for p in gate.parameters()}
            for parameter in part.parameters():
                parameter.requires_grad = id(parameter) in gates

    @classmethod
    def hub_models(cls):
        return {}

    @classmethod
    def add_args(cls, parser):
        # without defaults, so that architectures can give them
        gen_parser_from_dataclass(
            parser, TransformerHCGConfig(), delete_default=True, with_prefix=""
        )

    @classmethod
    def build_model(cls, args, task):
        transformer_hcg(args)  # what older checkpoints do not say
        cfg = TransformerHCGConfig.from_namespace(args)
        for part in (cfg.encoder, cfg.decoder):
            if part.layers_to_keep:
                part.layers = len(part.layers_to_keep.split(","))
        check_config(cfg)
        return super().build_model(cfg, task)

    @classmethod
    def build_encoder(cls, cfg, src_dict, embed_tokens):
        return HCGEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg, tgt_dict, embed_tokens):
        return HCGDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    # -------------------------------------------------------------- parts by name

    def attentions(self) -> dict[str, nn.Module]:
        """Return all attentions: ``encoder.0``, ``decoder.3``, ``cross.1`` (type and layer)."""
        return attentions(self)

    def gates(self) -> dict[str, HardConcreteGate]:
        """Return all gates by the names of their attentions."""
        return {k: a.gate for k, a in self.attentions().items() if hasattr(a, "gate")}

    def ffns(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return both layers of each FFN: ``encoder.0``, ``decoder.3``."""
        return feed_forwards(self)

    # ------------------------------------------------------------------- training

    def set_num_updates(self, num_updates):
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def _frozen_parts(self):
        return [getattr(self, name) for name in self.frozen]

    def train(self, mode: bool = True):
        """Set training mode, except that a frozen part stays as in evaluation."""
        super().train(mode)
        for part in self._frozen_parts():
            part.train(False)
            for gate in _gates_in(part):
                gate.train(mode)
        if "decoder" in self.frozen and mode != self._attention_unseen:
            # in evaluation fairseq computes attention weights as well, which cost much and which
            # training does not look at
            for layer in self.decoder.layers:
                layer.need_attn = not mode
            self._attention_unseen = mode
        return self

    # ---------------------------------------------------------------- checkpoints

    def upgrade_state_dict_named(self, state_dict, name):
        """Add open gates where there are none, and refuse gates that have no place here."""
        super().upgrade_state_dict_named(state_dict, name)
        own = self.state_dict()
        stray = [k for k in state_dict if k.endswith(".gate.log_alpha") and k not in own]
        if stray:
            raise UserError(
                f"the checkpoint has gates ({stray[0]}) that the model lacks, and closed heads "
                f"would open: add them to --gated-attention {self.cfg.gated_attention or '(none)'}"
                ", or remove closed heads by fairtale prune"
            )


def _gates_in(module: nn.Module) -> list[HardConcreteGate]:
    return [m for m in module.modules() if isinstance(m, HardConcreteGate)]


# -------------------------------------------------------------- named architectures

_STOCK = {f.name for f in fields(TransformerConfig)}
_DEFAULTS = {f.name: f.default for f in fields(TransformerHCGConfig) if f.name not in _STOCK}
for _part in ("encoder", "decoder"):
    _DEFAULTS |= {f"{_part}_layer_heads": "", f"{_part}_layer_ffn": ""}


@register_model_architecture("transformer_hcg", "transformer_hcg")
def transformer_hcg(args):
    """Vaswani et al. 2017, base: 6 + 6 layers of 512, 8 heads, FFN 2,048."""
    transformer_legacy.base_architecture(args)
    for name, value in _DEFAULTS.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


def _mirror(name, shape):
    """Register ``transformer_hcg...`` with the shape of fairseq's ``transformer...``."""

    @register_model_architecture("transformer_hcg", name)
    def architecture(args):
        shape(args)
        transformer_hcg(args)


_mirror("transformer_hcg_tiny", transformer_legacy.tiny_architecture)
_mirror("transformer_hcg_iwslt_de_en", transformer_legacy.transformer_iwslt_de_en)
_mirror("transformer_hcg_wmt_en_de", transformer_legacy.transformer_wmt_en_de)
_mirror(
    "transformer_hcg_vaswani_wmt_en_de_big", transformer_legacy.transformer_vaswani_wmt_en_de_big
)
_mirror(
    "transformer_hcg_vaswani_wmt_en_fr_big", transformer_legacy.transformer_vaswani_wmt_en_fr_big
)
_mirror("transformer_hcg_wmt_en_de_big", transformer_legacy.transformer_wmt_en_de_big)
_mirror("transformer_hcg_wmt_en_de_big_t2t", transformer_legacy.transformer_wmt_en_de_big_t2t)


@register_model_architecture("transformer_hcg", "transformer_hcg_small")
def transformer_hcg_small(args):
    """Two layers each of 512, 8 heads, FFN 2,048."""
    for name in ("encoder_layers", "decoder_layers"):
        if getattr(args, name, None) is None:
            setattr(args, name, 2)
    transformer_hcg(args)

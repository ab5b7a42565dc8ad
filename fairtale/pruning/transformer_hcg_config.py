"""What a config of ``transformer_hcg`` says: gates, shapes of pruned models, frozen parts."""

from dataclasses import dataclass, field

from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig

from ..errors import UserError
from .parts import HEAD_TYPES, SIDES

_LAYER_HEADS = "heads that each layer of a pruned model has left: 4,0,8; empty: none pruned"
_LAYER_FFN = "FFN units that each layer of a pruned model has left: 512,0; empty: none pruned"


@dataclass
class HCGEncoderConfig(EncDecBaseConfig):
    layer_heads: str = field(default="", metadata={"help": "encoder: " + _LAYER_HEADS})
    layer_ffn: str = field(default="", metadata={"help": "encoder: " + _LAYER_FFN})


@dataclass
class HCGDecoderConfig(DecoderConfig):
    layer_heads: str = field(
        default="", metadata={"help": "decoder self-attention: " + _LAYER_HEADS}
    )
    layer_ffn: str = field(default="", metadata={"help": "decoder: " + _LAYER_FFN})


@dataclass
class TransformerHCGConfig(TransformerConfig):
    """fairseq's options and ours. Those of a part (``encoder_layer_heads``) live in its config."""

    encoder: HCGEncoderConfig = field(default=HCGEncoderConfig)
    decoder: HCGDecoderConfig = field(default=HCGDecoderConfig)
    gated_attention: str = field(
        default="encoder",
        metadata={
            "help": "where heads have gates: any of encoder, decoder (its self-attention) and "
            "cross (over the encoder), joined by commas; empty: no gates"
        },
    )
    gate_temperature: float = field(
        default=0.33, metadata={"help": "temperature of the hard concrete distribution, above 0"}
    )
    gate_low: float = field(default=-0.1, metadata={"help": "where it is stretched to, below 0"})
    gate_high: float = field(default=1.1, metadata={"help": "where it is stretched to, above 1"})
    gate_init_log_alpha: float = field(
        default=2.5,
        metadata={"help": "log-alpha of new gates; from 2.4 on all are open in evaluation"},
    )
    gate_lr_scale: float = field(
        default=32.0,
        metadata={"help": "with Adam, gates learn this many times faster than weights"},
    )
    cross_layer_heads: str = field(
        default="", metadata={"help": "decoder, over the encoder: " + _LAYER_HEADS}
    )
    freeze: str = field(
        default="",
        metadata={
            "help": "parts whose weights stay as they are, without dropout: encoder, decoder, or "
            "both joined by a comma; embeddings that they share with others stay as well. "
            "Gates in a frozen part are learned"
        },
    )


def names_of(option: str, text: str, allowed) -> list[str]:
    """Split a comma list of names.

    Raises:
        UserError: a name is not allowed.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise UserError(f"{option} {text}: {unknown[0]} is none of {', '.join(allowed)}")
    return [name for name in allowed if name in names]


def counts_of(option: str, text: str, num_layers: int):
    """Read a comma list of one whole number a layer; None if it is empty.

    Raises:
        UserError: it is no such list.
    """
    if not text:
        return None
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = [-1]
    if len(counts) != num_layers or min(counts, default=0) < 0:
        raise UserError(
            f"{option} {text}: must be {num_layers} whole numbers joined by commas, one a layer"
        )
    return counts


def check_config(cfg: TransformerHCGConfig) -> None:
    """Refuse what cannot be built, before anything is."""
    gated = names_of("--gated-attention", cfg.gated_attention, HEAD_TYPES)
    names_of("--freeze", cfg.freeze, SIDES)
    for part, config in (("encoder", cfg.encoder), ("decoder", cfg.decoder)):
        if config.attention_heads < 1 or config.embed_dim % config.attention_heads:
            raise UserError(
                f"--{part}-attention-heads {config.attention_heads}: must divide "
                f"--{part}-embed-dim {config.embed_dim} into heads of equal size"
            )
        counts_of(f"--{part}-layer-ffn", config.layer_ffn, config.layers)
    for kind, text, config in head_lists(cfg):
        counts = counts_of(f"--{kind}-layer-heads", text, config.layers)
        if counts and max(counts) > config.attention_heads:
            raise UserError(
                f"--{kind}-layer-heads {text}: a layer has at most {config.attention_heads} heads"
            )
    if cfg.no_cross_attention and "cross" in gated:
        raise UserError("--gated-attention cross: the model has --no-cross-attention")
    special = gated or any(text for _, text, _ in head_lists(cfg))
    if special and cfg.quant_noise.pq > 0:
        raise UserError("--quant-noise-pq does not go with --gated-attention or pruned heads")


def head_lists(cfg):
    """Return each type of attention, its list of heads and the config of its part."""
    return (
        ("encoder", cfg.encoder.layer_heads, cfg.encoder),
        ("decoder", cfg.decoder.layer_heads, cfg.decoder),
        ("cross", cfg.cross_layer_heads, cfg.decoder),
    )


def ffn_units(option: str, config, layer: int, units: int) -> int:
    """Return the FFN units that a layer has: those of the list, or ``units``."""
    counts = counts_of(option, config.layer_ffn, config.layers)
    return counts[layer] if counts else units

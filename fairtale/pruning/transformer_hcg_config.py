"""The options of ``transformer_hcg``: gates, shapes of pruned models, frozen parts.

:func:`check_config` refuses options that contradict each other. :func:`layer_shapes` reads them
once, and returns plain values from which layers are built.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig

from ..errors import UserError
from .parts import HEAD_TYPES, SIDES

_LAYER_HEADS = "heads that each layer of a pruned model has left: 4,0,8; empty: none pruned"
_LAYER_FFN = "FFN units that each layer of a pruned model has left: 512,0; empty: none pruned"


@dataclass
class HCGEncoderConfig(EncDecBaseConfig):
    """fairseq's options of the encoder, and the shape of a pruned one."""

    layer_heads: str = field(default="", metadata={"help": "encoder: " + _LAYER_HEADS})
    layer_ffn: str = field(default="", metadata={"help": "encoder: " + _LAYER_FFN})


@dataclass
class HCGDecoderConfig(DecoderConfig):
    """fairseq's options of the decoder, and the shape of a pruned one."""

    layer_heads: str = field(
        default="", metadata={"help": "decoder self-attention: " + _LAYER_HEADS}
    )
    layer_ffn: str = field(default="", metadata={"help": "decoder: " + _LAYER_FFN})


@dataclass
class TransformerHCGConfig(TransformerConfig):
    """fairseq's options of a transformer, and those of gates, pruning and freezing.

    Options of a part, as ``--encoder-layer-heads``, are fields of the part's config.
    """

    # fairseq's parser wants the classes of its parts, not instances
    encoder: HCGEncoderConfig = field(default=HCGEncoderConfig)  # type: ignore[assignment]
    decoder: HCGDecoderConfig = field(default=HCGDecoderConfig)  # type: ignore[assignment]
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
    gate_low: float = field(
        default=-0.1, metadata={"help": "lower end of the stretched distribution, below 0"}
    )
    gate_high: float = field(
        default=1.1, metadata={"help": "upper end of the stretched distribution, above 1"}
    )
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


# ------------------------------------------------------------------------ reading options


def names_of(option: str, text: str, allowed: Collection[str]) -> list[str]:
    """Split a comma list of names; return them in the order of ``allowed``.

    Raises:
        UserError: a name is not allowed.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise UserError(f"{option} {text}: {unknown[0]} is none of {', '.join(allowed)}")
    return [name for name in allowed if name in names]


def counts_of(option: str, text: str, num_layers: int) -> list[int] | None:
    """Read a comma list of one whole number a layer; return None if it is empty.

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


def _head_lists(cfg: TransformerHCGConfig) -> dict[str, tuple[str, Any]]:
    """Return, for each type of attention, its list of heads and the config of its part."""
    return {
        "encoder": (cfg.encoder.layer_heads, cfg.encoder),
        "decoder": (cfg.decoder.layer_heads, cfg.decoder),
        "cross": (cfg.cross_layer_heads, cfg.decoder),
    }


def check_config(cfg: TransformerHCGConfig) -> None:
    """Refuse what cannot be built, before anything is.

    Raises:
        UserError: an option is no list of what it names, or contradicts another.
    """
    gated = names_of("--gated-attention", cfg.gated_attention, HEAD_TYPES)
    names_of("--freeze", cfg.freeze, SIDES)
    for part, config in (("encoder", cfg.encoder), ("decoder", cfg.decoder)):
        if config.attention_heads < 1 or config.embed_dim % config.attention_heads:
            raise UserError(
                f"--{part}-attention-heads {config.attention_heads}: must divide "
                f"--{part}-embed-dim {config.embed_dim} into heads of equal size"
            )
        counts_of(f"--{part}-layer-ffn", config.layer_ffn, config.layers)
    head_lists = _head_lists(cfg)
    for kind, (text, config) in head_lists.items():
        counts = counts_of(f"--{kind}-layer-heads", text, config.layers)
        if counts and max(counts) > config.attention_heads:
            raise UserError(
                f"--{kind}-layer-heads {text}: a layer has at most {config.attention_heads} heads"
            )
    if cfg.no_cross_attention and "cross" in gated:
        raise UserError("--gated-attention cross: the model has --no-cross-attention")
    special = gated or any(text for text, _ in head_lists.values())
    if special and cfg.quant_noise.pq > 0:
        raise UserError("--quant-noise-pq does not go with --gated-attention or pruned heads")


# -------------------------------------------------------------------- what layers are built from


@dataclass(frozen=True)
class GateSettings:
    """Arguments of :class:`~fairtale.modules.hard_concrete.HardConcreteGate`."""

    temperature: float
    low: float
    high: float
    init_log_alpha: float
    lr_scale: float


@dataclass(frozen=True)
class AttentionShape:
    """The heads of one attention."""

    num_heads: int  # those that are left
    head_dim: int  # D
    is_pruned: bool  # its number of heads is given by an option
    gate: GateSettings | None  # of the gates of its heads; None: no gates


@dataclass(frozen=True)
class LayerShape:
    """The widths of one layer."""

    self_attention: AttentionShape
    cross_attention: AttentionShape | None  # None in the encoder
    ffn_units: int  # F; 0: the feed-forward sub-layer has nothing but its bias


def layer_shapes(cfg: TransformerHCGConfig, side: str) -> list[LayerShape]:
    """Return the shapes of the layers of one side, "encoder" or "decoder".

    Args:
        cfg: as :func:`check_config` accepts it.
        side: which part.
    """
    config = getattr(cfg, side)
    attentions = _attention_shapes(cfg, side)
    cross = _attention_shapes(cfg, "cross") if side == "decoder" else [None] * config.layers
    units = counts_of(f"--{side}-layer-ffn", config.layer_ffn, config.layers)
    units = [config.ffn_embed_dim] * config.layers if units is None else units
    return [LayerShape(*shape) for shape in zip(attentions, cross, units, strict=True)]


def _attention_shapes(cfg: TransformerHCGConfig, kind: str) -> list[AttentionShape]:
    """Return the shapes of all attentions of a type, layer by layer."""
    text, config = _head_lists(cfg)[kind]
    left = counts_of(f"--{kind}-layer-heads", text, config.layers)
    gate = None
    if kind in names_of("--gated-attention", cfg.gated_attention, HEAD_TYPES):
        gate = GateSettings(
            temperature=cfg.gate_temperature,
            low=cfg.gate_low,
            high=cfg.gate_high,
            init_log_alpha=cfg.gate_init_log_alpha,
            lr_scale=cfg.gate_lr_scale,
        )
    head_dim = config.embed_dim // config.attention_heads
    return [
        AttentionShape(heads, head_dim, left is not None, gate)
        for heads in (left or [config.attention_heads] * config.layers)
    ]

"""Define the options of ``transformer_hcg``: gates, shapes of pruned models, frozen parts.

:func:`check_config` refuses options that contradict each other. :func:`layer_shapes` converts the
options to plain values from which the layers are built.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig

from ..errors import UserError
from .parts import HEAD_TYPES, SIDES

_LAYER_HEADS = "remaining heads of each layer of a pruned model, as 4,0,8 (empty: not pruned)"
_LAYER_FFN = "remaining FFN units of each layer of a pruned model, as 512,0 (empty: not pruned)"


@dataclass
class HCGEncoderConfig(EncDecBaseConfig):
    """fairseq's options of the encoder, and the shape of a pruned encoder."""

    layer_heads: str = field(default="", metadata={"help": "encoder: " + _LAYER_HEADS})
    layer_ffn: str = field(default="", metadata={"help": "encoder: " + _LAYER_FFN})


@dataclass
class HCGDecoderConfig(DecoderConfig):
    """fairseq's options of the decoder, and the shape of a pruned decoder."""

    layer_heads: str = field(
        default="", metadata={"help": "decoder self-attention: " + _LAYER_HEADS}
    )
    layer_ffn: str = field(default="", metadata={"help": "decoder: " + _LAYER_FFN})


@dataclass
class TransformerHCGConfig(TransformerConfig):
    """fairseq's options of a transformer, and options for gates, pruning and freezing.

    Options of the encoder or decoder, such as ``--encoder-layer-heads``, are fields of its config.
    """

    # fairseq's parser requires the classes of nested configs, not instances
    encoder: HCGEncoderConfig = field(default=HCGEncoderConfig)  # type: ignore[assignment]
    decoder: HCGDecoderConfig = field(default=HCGDecoderConfig)  # type: ignore[assignment]
    gated_attention: str = field(
        default="encoder",
        metadata={
            "help": "attention types whose heads have gates: any of encoder, decoder (its "
            "self-attention) and cross (cross attention), separated by commas (empty: no gates)"
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
        metadata={"help": "log-alpha of new gates; from 2.4 on, all are fully open in evaluation"},
    )
    gate_lr_scale: float = field(
        default=32.0,
        metadata={"help": "factor by which gates learn faster than weights with Adam"},
    )
    cross_layer_heads: str = field(
        default="", metadata={"help": "decoder cross attention: " + _LAYER_HEADS}
    )
    freeze: str = field(
        default="",
        metadata={
            "help": "parts whose weights are not trained, and which have no dropout: encoder, "
            "decoder, or both, separated by a comma; their shared embeddings are not trained "
            "either, but their gates are"
        },
    )


# ------------------------------------------------------------------------ reading options


def names_of(option: str, text: str, allowed: Collection[str]) -> list[str]:
    """Parse a list of names separated by commas; return them in the order of ``allowed``.

    Args:
        option: name of the option, for the error message.
        text: the list.
        allowed: valid names.

    Raises:
        UserError: a name is not allowed.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise UserError(f"{option} {text}: {unknown[0]} is none of {', '.join(allowed)}")
    return [name for name in allowed if name in names]


def counts_of(option: str, text: str, num_layers: int) -> list[int] | None:
    """Parse a list of one number for each layer, separated by commas; None for an empty list.

    Args:
        option: name of the option, for the error message.
        text: the list.
        num_layers: number of layers.

    Raises:
        UserError: an entry is not a number, or the length is not the number of layers.
    """
    if not text:
        return None
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = [-1]
    if len(counts) != num_layers or min(counts, default=0) < 0:
        raise UserError(
            f"{option} {text}: must be {num_layers} whole numbers separated by commas, one for "
            "each layer"
        )
    return counts


def _head_lists(cfg: TransformerHCGConfig) -> dict[str, tuple[str, Any]]:
    """Return, for each attention type, its option for the numbers of heads and its config."""
    return {
        "encoder": (cfg.encoder.layer_heads, cfg.encoder),
        "decoder": (cfg.decoder.layer_heads, cfg.decoder),
        "cross": (cfg.cross_layer_heads, cfg.decoder),
    }


def check_config(cfg: TransformerHCGConfig) -> None:
    """Refuse options from which no model can be built.

    Raises:
        UserError: an option is malformed or out of range, or contradicts another option.
    """
    gated = names_of("--gated-attention", cfg.gated_attention, HEAD_TYPES)
    frozen = names_of("--freeze", cfg.freeze, SIDES)
    if frozen == list(SIDES) and not gated:
        raise UserError(
            f"--freeze {cfg.freeze}: leaves nothing to train; freeze one part, or let gates learn "
            "with --gated-attention"
        )
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
    if gated and cfg.quant_noise.pq > 0:
        raise UserError("--quant-noise-pq cannot be used with --gated-attention")


# ------------------------------------------------------------------------- shapes of layers


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

    num_heads: int  # number of remaining heads
    head_dim: int  # D
    is_pruned: bool  # whether an option gives the number of heads
    gate: GateSettings | None  # settings of the gates; None for no gates


@dataclass(frozen=True)
class LayerShape:
    """The widths of one layer."""

    self_attention: AttentionShape
    cross_attention: AttentionShape | None  # None in the encoder
    ffn_units: int  # F; with 0, the feed-forward sub-layer has only its output bias


def layer_shapes(cfg: TransformerHCGConfig, side: str) -> list[LayerShape]:
    """Return the shapes of the layers of one side, "encoder" or "decoder".

    Args:
        cfg: config that :func:`check_config` has accepted.
        side: "encoder" or "decoder".
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

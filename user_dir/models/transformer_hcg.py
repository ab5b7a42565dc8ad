"""``transformer_hcg``: fairseq's transformer with gates on heads, also for pruned models.

Its options are in :mod:`fairtale.pruning.transformer_hcg_config`, its encoder and decoder in
:mod:`fairtale.pruning.transformer_hcg_layers`.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Self

from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerModel, transformer_legacy
from torch import nn

from fairtale.errors import UserError
from fairtale.modules.hard_concrete import HardConcreteGate
from fairtale.modules.narrow_attention import NarrowAttention
from fairtale.optim.layers import transformer_layer_groups
from fairtale.pruning.parts import SIDES, attentions, feed_forwards
from fairtale.pruning.transformer_hcg_config import (
    TransformerHCGConfig,
    check_config,
    layer_shapes,
    names_of,
)
from fairtale.pruning.transformer_hcg_layers import HCGDecoder, HCGEncoder


@register_model("transformer_hcg")
class TransformerHCGModel(TransformerModel):
    """fairseq's transformer with a hard concrete gate for each head.

    Source: Voita et al. 2019. Without gates, or with all gates open, the model has the parameters
    and the output of fairseq's ``transformer``, and loads its checkpoints; missing gates are added
    as open gates. Like ``transformer``, it is registered with ``add_args`` and not with a
    dataclass, because fairseq ignores command-line options for a nested dataclass.
    """

    def __init__(self, cfg: TransformerHCGConfig, encoder: HCGEncoder, decoder: HCGDecoder) -> None:
        super().__init__(cfg, encoder, decoder)
        self.num_updates = 0
        self._attention_unseen = False
        self.frozen = names_of("--freeze", cfg.freeze, SIDES)
        for part in self._frozen_parts():
            gates = {id(p) for gate in _gates_in(part) for p in gate.parameters()}
            for parameter in part.parameters():
                parameter.requires_grad = id(parameter) in gates

    @classmethod
    def hub_models(cls) -> dict[str, Any]:
        """Return no models, because fairseq's pretrained models have other classes."""
        return {}

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the options to fairseq's parser."""
        # add no defaults, so that architectures can set them
        gen_parser_from_dataclass(
            parser, TransformerHCGConfig(), delete_default=True, with_prefix=""
        )

    @classmethod
    def build_model(cls, args: Namespace, task: Any) -> Self:
        """Build the model.

        Raises:
            UserError: options are malformed or contradict each other.
        """
        transformer_hcg(args)  # set the defaults of options that older checkpoints lack
        cfg = TransformerHCGConfig.from_namespace(args)
        for side, part in (("encoder", cfg.encoder), ("decoder", cfg.decoder)):
            if isinstance(part.layers_to_keep, list):  # from the command line
                raise UserError(
                    f"--{side}-layers-to-keep: not supported by transformer_hcg; remove layers "
                    "with fairtale prune --drop-layers"
                )
            if part.layers_to_keep:
                part.layers = len(part.layers_to_keep.split(","))
        check_config(cfg)
        return super().build_model(cfg, task)

    @classmethod
    def build_encoder(
        cls, cfg: TransformerHCGConfig, src_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> HCGEncoder:
        """Build the encoder."""
        return HCGEncoder(cfg, src_dict, embed_tokens, layer_shapes(cfg, "encoder"))

    @classmethod
    def build_decoder(
        cls, cfg: TransformerHCGConfig, tgt_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> HCGDecoder:
        """Build the decoder."""
        shapes = layer_shapes(cfg, "decoder")
        return HCGDecoder(cfg, tgt_dict, embed_tokens, shapes, cfg.no_cross_attention)

    # -------------------------------------------------------------- parts by name

    def attentions(self) -> dict[str, nn.Module]:
        """Return all attentions by type and layer, such as ``encoder.0`` or ``cross.1``."""
        return attentions(self)

    def gates(self) -> dict[str, HardConcreteGate]:
        """Return the gates by the names of their attentions."""
        gates = {key: getattr(module, "gate", None) for key, module in self.attentions().items()}
        return {key: gate for key, gate in gates.items() if gate is not None}

    def ffns(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return both linear layers of each FFN by side and layer, such as ``encoder.0``."""
        return feed_forwards(self)

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Return the parameters, gates included, of all parts from bottom to top."""
        return transformer_layer_groups(self)

    # ------------------------------------------------------------------- training

    def set_num_updates(self, num_updates: int) -> None:
        """Store the number of finished updates."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def _frozen_parts(self) -> list[nn.Module]:
        return [getattr(self, name) for name in self.frozen]

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, but keep frozen parts, except their gates, in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            part.train(False)
            for gate in _gates_in(part):
                gate.train(mode)
        if "decoder" in self.frozen and mode != self._attention_unseen:
            # in evaluation mode fairseq also computes attention weights, which are expensive and
            # not needed in training
            for layer in self.decoder.layers:
                layer.need_attn = not mode
            self._attention_unseen = mode
        return self

    # ----------------------------------------------------------------- generation

    def set_beam_size(self, beam_size: int) -> None:
        """Let the beams of a sentence share keys and values in pruned attentions.

        fairseq's generator calls this method when it is built. fairseq's own attentions are not
        changed, because they would treat rows as beams without checking that their keys are equal,
        even if another generator uses the model.
        """
        for attention in self.attentions().values():
            if isinstance(attention, NarrowAttention):
                attention.set_beam_size(beam_size)

    # ---------------------------------------------------------------- checkpoints

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Add open gates that the checkpoint lacks, and refuse gates that the model lacks.

        Raises:
            UserError: the checkpoint has gates that the model lacks.
        """
        super().upgrade_state_dict_named(state_dict, name)
        own = self.state_dict()
        stray = [k for k in state_dict if k.endswith(".gate.log_alpha") and k not in own]
        if stray:
            raise UserError(
                f"the checkpoint has gates ({stray[0]}) that the model lacks, so closed heads "
                f"would open: add them to --gated-attention {self.cfg.gated_attention or '(none)'}"
                ", or remove closed heads with fairtale prune"
            )


def _gates_in(module: nn.Module) -> list[HardConcreteGate]:
    return [m for m in module.modules() if isinstance(m, HardConcreteGate)]


# -------------------------------------------------------------- named architectures

_STOCK = {f.name for f in fields(TransformerConfig)}
_DEFAULTS = {f.name: f.default for f in fields(TransformerHCGConfig) if f.name not in _STOCK}
for _part in ("encoder", "decoder"):
    _DEFAULTS |= {f"{_part}_layer_heads": "", f"{_part}_layer_ffn": ""}


@register_model_architecture("transformer_hcg", "transformer_hcg")
def transformer_hcg(args: Namespace) -> None:
    """Set the shape of Vaswani et al. 2017, base: 6 + 6 layers of 512, 8 heads, FFN 2,048."""
    transformer_legacy.base_architecture(args)
    for name, value in _DEFAULTS.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


def _mirror(name: str, shape: Callable[[Namespace], None]) -> None:
    """Register ``transformer_hcg...`` with the shape of fairseq's ``transformer...``."""

    @register_model_architecture("transformer_hcg", name)
    def architecture(args: Namespace) -> None:
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
def transformer_hcg_small(args: Namespace) -> None:
    """Set a small shape: 2 + 2 layers of 512, 8 heads, FFN 2,048."""
    for name in ("encoder_layers", "decoder_layers"):
        if getattr(args, name, None) is None:
            setattr(args, name, 2)
    transformer_hcg(args)

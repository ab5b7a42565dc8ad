"""``gpt``: a decoder-only language model that continues a prompt."""

import logging
import math
from argparse import Namespace
from dataclasses import dataclass, field, fields
from typing import Any, Optional, Self, cast

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fairtale.data.corpus.tokenizer_dictionary import num_predicted
from fairtale.errors import UserError
from fairtale.interfaces import DialogSides, Packing, PrefixTask
from fairtale.modules.attention_masks import CausalRows, PackedRows, unilm_rows
from fairtale.modules.lora import TARGETS, adapter_shape, add_adapters
from fairtale.modules.lora_state import complete_state_dict
from fairtale.modules.prefix_encoder_decoder import PrefixDecoder, PrefixEncoder
from fairtale.modules.prefix_transformer import (
    ACTIVATIONS,
    DropoutRates,
    PrefixTransformer,
    TransformerShape,
)

logger = logging.getLogger(__name__)


@dataclass
class GPTConfig(FairseqDataclass):
    """Options of ``gpt``."""

    # fairseq takes the choices of an option from this annotation, which is not a valid type
    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = field(  # type: ignore[valid-type]
        default="gelu_accurate",
        metadata={"help": "activation of the FFN; gelu_accurate is GPT-2's tanh form"},
    )
    dropout: float = field(
        default=0.1, metadata={"help": "dropout on embeddings and on each sub-layer's output"}
    )
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout on attention weights"})
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout after the activation of the FFN"}
    )
    decoder_embed_dim: int = field(default=768, metadata={"help": "width of the model"})
    decoder_ffn_embed_dim: int = field(default=3072, metadata={"help": "width of the FFN"})
    decoder_layers: int = field(default=12, metadata={"help": "number of layers"})
    decoder_attention_heads: int = field(default=12, metadata={"help": "heads of each layer"})
    decoder_normalize_after: bool = field(
        default=False,
        metadata={"help": "LayerNorm after each sub-layer (GPT-1) instead of before (GPT-2)"},
    )
    layer_norm_eps: float = field(
        default=1e-5, metadata={"help": "number added to the variance in LayerNorm"}
    )
    initializer_range: float = field(
        default=0.02, metadata={"help": "standard deviation of the initial weights, as in GPT-2"}
    )
    untied_output: bool = field(
        default=False,
        metadata={
            "help": "project to the vocabulary with a matrix of its own instead of the embedding"
        },
    )
    max_target_positions: Optional[int] = field(
        default=None,
        metadata={
            "help": "number of positions, the maximum length of a row (default: as many as the "
            "task needs)"
        },
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "recompute activations in the backward pass, to save memory"},
    )
    compile: bool = field(
        default=False,
        metadata={"help": "compile the layers with torch.compile: slower start, faster updates"},
    )
    lora_rank: int = field(
        default=0,
        metadata={
            "help": "train adapters of this rank on the base that --finetune-from-model names, "
            "and nothing else (0: no adapters)"
        },
    )
    lora_alpha: Optional[float] = field(
        default=None,
        metadata={"help": "the adapters' output is scaled by alpha / rank (default: the rank)"},
    )
    lora_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout on the adapters' inputs (default: 0)"}
    )
    lora_target: Optional[str] = field(
        default=None,
        metadata={
            "help": f"layers that get adapters, separated by commas (default: {','.join(TARGETS)})"
        },
    )


@register_model("gpt", dataclass=GPTConfig)
class GPTModel(BaseFairseqModel):
    """A language model with the architecture of GPT-2 (Radford et al. 2019).

    Training reads whole rows with :meth:`forward`. Generation uses ``encoder`` and ``decoder``,
    which fairseq's generator requires.

    Args:
        dictionary: fairseq's dictionary, of size V.
        transformer: module with all parameters of the model.
    """

    bidirectional_prefix = False
    shape_options = (
        "activation_fn",
        "decoder_attention_heads",
        "decoder_embed_dim",
        "decoder_ffn_embed_dim",
        "decoder_layers",
        "decoder_normalize_after",
        "layer_norm_eps",
        "max_target_positions",
        "untied_output",
    )

    def __init__(self, dictionary: Dictionary, transformer: PrefixTransformer) -> None:
        super().__init__()
        self.dictionary = dictionary
        self.transformer = transformer
        self.encoder = PrefixEncoder(dictionary, transformer)
        self.decoder = PrefixDecoder(dictionary, transformer)
        self.supported_targets = {"future"}

    @classmethod
    def all_options(cls) -> list[str]:
        """Return the names of all options of the model."""
        return [f.name for f in fields(GPTConfig) if f.name != "_name"]

    @classmethod
    def build_model(cls, cfg: GPTConfig, task: PrefixTask) -> Self:
        """Build the model; the number of positions defaults to the one that the task needs.

        Raises:
            UserError: the number of heads does not divide the width, the eps is not positive, or an
                option of the adapters is out of range.
        """
        if isinstance(cfg, DictConfig):  # of a checkpoint, which may lack options that are newer
            defaults = {f.name: f.default for f in fields(GPTConfig)}
            cfg = cast(GPTConfig, OmegaConf.merge(DictConfig(defaults), cfg))
        if not cfg.layer_norm_eps > 0:
            raise UserError(f"--layer-norm-eps {cfg.layer_norm_eps}: must be greater than 0")
        if not 0 < cfg.initializer_range < math.inf:
            raise UserError(f"--initializer-range {cfg.initializer_range}: must be > 0 and finite")
        adapters = adapter_shape(cfg.lora_rank, cfg.lora_alpha, cfg.lora_dropout, cfg.lora_target)
        if cfg.decoder_embed_dim % cfg.decoder_attention_heads:
            raise UserError(
                f"--decoder-embed-dim {cfg.decoder_embed_dim} is not divisible by "
                f"--decoder-attention-heads {cfg.decoder_attention_heads}"
            )
        transformer = PrefixTransformer(
            len(task.dictionary),
            task.dictionary.pad(),
            cfg.max_target_positions or task.needed_positions,
            TransformerShape(
                embed_dim=cfg.decoder_embed_dim,
                num_layers=cfg.decoder_layers,
                num_heads=cfg.decoder_attention_heads,
                ffn_dim=cfg.decoder_ffn_embed_dim,
                activation_fn=str(cfg.activation_fn),
                normalize_before=not cfg.decoder_normalize_after,
                layer_norm_eps=cfg.layer_norm_eps,
                untied_output=cfg.untied_output,
                initializer_range=cfg.initializer_range,
            ),
            DropoutRates(
                sublayer=cfg.dropout,
                attention=cfg.attention_dropout,
                activation=cfg.activation_dropout,
            ),
            num_segments=task.num_segments,
            checkpoint_activations=cfg.checkpoint_activations,
            bidirectional_prefix=cls.bidirectional_prefix,
            num_predicted=num_predicted(task.dictionary),
        )
        if adapters is not None:
            add_adapters(transformer, adapters)
        if cfg.compile:
            for layer in transformer.layers:
                layer.compile(dynamic=True)
        return cls(task.dictionary, transformer)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        packing: Packing | None = None,
        sides: DialogSides | None = None,
        seq2seq: bool = False,
        features_only: bool = False,
    ) -> tuple[Tensor, None]:
        """Read whole rows and predict each next token.

        Args:
            src_tokens: int64 [B, T], padded at the right, or packed [1, N].
            src_lengths: unused, but passed by fairseq's criterions and tools.
            positions: int64, of the shape of ``src_tokens``; default: 0 to T - 1. They are required
                for packed rows.
            segments: int64, of the shape of ``src_tokens``, or None without segments.
            packing: indices of the sequences in a packed row (see
                :func:`~fairtale.modules.attention_masks.packing_index`).
            sides: prefix and response lengths of packed dialogs.
            seq2seq: read the prefixes of packed dialogs in both directions; needs ``sides``.
            features_only: return the features before the projection to the vocabulary.

        Returns:
            Logits [B, T, V] or features [B, T, C], and None.
        """
        packed: PackedRows | None = None
        if seq2seq:
            assert sides is not None, "seq2seq needs the prefix and response lengths"
            packed = unilm_rows(
                sides["prefix_lengths"], sides["response_lengths"], *sides["longest"]
            )
        elif packing is not None:
            packed = CausalRows(**packing)
        x = self.transformer(src_tokens, positions, segments, packed)
        if features_only:
            return self.transformer.features_for_loss(x), None
        return self.transformer.logits(x), None

    def extract_features(self, src_tokens: Tensor, **net_input: Any) -> tuple[Tensor, None]:
        """Return the features [B, T, C] before the projection, and None."""
        return self(src_tokens, **net_input, features_only=True)

    def output_weight(self) -> Tensor:
        """Return the weight of the projection to the entries that can be predicted, [V', C]."""
        return self.transformer.output_weight()

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Return the parameters of the embeddings, of each layer and of the top, bottom to top."""
        layers = self.transformer.layers
        groups = [(f"layer_{i}", list(layer.parameters())) for i, layer in enumerate(layers)]
        other: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.transformer.named_parameters():
            if not name.startswith("layers."):
                other[name.startswith("embed_")].append(parameter)
        return [("embeddings", other[True]), *groups, ("top", other[False])]

    def get_targets(self, sample: dict[str, Any], net_output: Any) -> Tensor:
        """Return the targets of a batch, int64 [B, T].

        Raises:
            UserError: a target is an entry that is never predicted.
        """
        target: Tensor = sample["target"]
        size = self.transformer.num_predicted
        if size < len(self.dictionary):
            wrong = target.ge(size) & target.ne(self.dictionary.pad())
            if wrong.any():
                word = self.dictionary[int(target[wrong][0])]
                raise UserError(
                    f"the data contain {word}, which the model's tokenizer never writes: encode "
                    "the texts with the tokenizer.json of the model, and make the data again"
                )
        return target

    def get_normalized_probs(
        self, net_output: tuple[Tensor, None], log_probs: bool, sample: Any = None
    ) -> Tensor:
        """Return fp32 (log-)probabilities [B, T, V]."""
        logits = net_output[0].float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)

    def max_positions(self) -> int:
        """Return the maximum length of a row."""
        return self.transformer.max_positions

    def max_decoder_positions(self) -> int:
        """Return the maximum length of a row, prefix included."""
        return self.transformer.max_positions

    def upgrade_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the checkpoint matches the dictionary and the structure of the model.

        A checkpoint without adapters is the base of the model's adapters, which are kept.

        Raises:
            UserError: the checkpoint has another number of dictionary entries or positions, or
                other adapters, or segments that the model lacks, or only one of the two has an
                untied output matrix.
        """
        super().upgrade_state_dict(state_dict)
        self._complete_segments(state_dict)
        untied = "transformer.output_projection.weight" in state_dict
        if untied != (self.transformer.output_projection is not None):
            has, option = ("an", "give") if untied else ("no", "leave out")
            raise UserError(
                f"the checkpoint has {has} output matrix besides the embedding: {option} "
                "--untied-output"
            )
        for key, own, what, remedy in (
            (
                "transformer.embed_tokens.weight",
                len(self.dictionary),
                "dictionary entries",
                "use the dict.txt that it was trained with",
            ),
            (
                "transformer.embed_positions.weight",
                self.transformer.max_positions,
                "positions",
                self._positions_remedy(),
            ),
        ):
            if key in state_dict and state_dict[key].size(0) != own:
                raise UserError(
                    f"the checkpoint has {state_dict[key].size(0)} {what}, but the model has "
                    f"{own}: {remedy}"
                )
        complete_state_dict(self.transformer, state_dict)

    def _positions_remedy(self) -> str:
        if self.transformer.embed_segments is None:
            return "set --max-target-positions (or --tokens-per-sample) to the checkpoint's number"
        return (
            "the larger of --max-source-positions and --max-target-positions must be the "
            "checkpoint's number"
        )

    def _complete_segments(self, state_dict: dict[str, Any]) -> None:
        """Let a model of dialogs begin from one of plain text, whose function it then has."""
        own, key = self.transformer.embed_segments, "transformer.embed_segments.weight"
        if own is None and key in state_dict:
            raise UserError(
                "the checkpoint was trained on dialogs, and its segments have no meaning in plain "
                "text: use --task dialog_lm"
            )
        if own is not None and key not in state_dict:
            logger.info("the checkpoint has no segments: their embeddings begin at zero")
            state_dict[key] = torch.zeros_like(own.weight)


def shape_architecture(
    args: Namespace, embed_dim: int, layers: int, heads: int, **values: Any
) -> None:
    """Set the options of an architecture that are not given, with an FFN four times as wide.

    Args:
        args: options; those that are None or missing are set.
        embed_dim: width of the model.
        layers: number of layers.
        heads: number of heads in each layer.
        values: further options of the architecture.
    """
    shape = {
        "decoder_embed_dim": embed_dim,
        "decoder_layers": layers,
        "decoder_attention_heads": heads,
        "decoder_ffn_embed_dim": 4 * embed_dim,
    }
    for name, value in (shape | values).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


@register_model_architecture("gpt", "gpt_tiny")
def gpt_tiny(args: Namespace) -> None:
    """Set the shape for tests and for the quickstart: 0.8M parameters besides the embeddings."""
    shape_architecture(args, 128, 4, 4, attention_dropout=0.0)


@register_model_architecture("gpt", "gpt_story_24m")
def gpt_story_24m(args: Namespace) -> None:
    """Set the shape for stories: 512 wide, 6 layers, 8 heads; 22M parameters with 5,120 entries."""
    shape_architecture(args, 512, 6, 8, attention_dropout=0.0)


@register_model_architecture("gpt", "gpt_112m_half")
def gpt_112m_half(args: Namespace) -> None:
    """Set half the layers of ``gpt_112m``, with heads twice as wide."""
    shape_architecture(args, 768, 6, 6)


@register_model_architecture("gpt", "gpt_112m")
def gpt_112m(args: Namespace) -> None:
    """Set the shape of GPT-2 small."""
    shape_architecture(args, 768, 12, 12)


@register_model_architecture("gpt", "gpt_345m")
def gpt_345m(args: Namespace) -> None:
    """Set the shape of GPT-2 medium."""
    shape_architecture(args, 1024, 24, 16)

"""``gpt``: a decoder-only language model that continues a prompt."""

from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture

from fairtale.errors import UserError
from fairtale.interfaces import DialogSides, Packing
from fairtale.modules.attention import PackedRows
from fairtale.modules.fast_gemm import choose_fast_fp32_products
from fairtale.modules.prefix_encoder_decoder import PrefixDecoder, PrefixEncoder
from fairtale.modules.prefix_transformer import ACTIVATIONS, PrefixTransformer
from fairtale.modules.rows import prefix_rows


@dataclass
class GPTConfig(FairseqDataclass):
    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = field(
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
    max_target_positions: Optional[int] = field(
        default=None,
        metadata={"help": "longest row the model can read (default: --tokens-per-sample)"},
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "compute activations again in the backward pass, to save memory"},
    )
    compile: bool = field(
        default=False, metadata={"help": "torch.compile the layers: slow start, faster steps"}
    )


@register_model("gpt", dataclass=GPTConfig)
class GPTModel(BaseFairseqModel):
    """GPT-2's layout (Radford et al. 2019) with fairseq's two faces for generation.

    Args:
        dictionary: fairseq's; its size is V.
        transformer: the one module that holds all parameters.
    """

    bidirectional_prefix = False

    def __init__(self, dictionary, transformer: PrefixTransformer):
        super().__init__()
        self.dictionary = dictionary
        self.transformer = transformer
        self.encoder = PrefixEncoder(dictionary, transformer)
        self.decoder = PrefixDecoder(dictionary, transformer)
        self.supported_targets = {"future"}

    @classmethod
    def build_model(cls, cfg: GPTConfig, task):
        """Build the model; positions default to what the task needs."""
        if cfg.decoder_embed_dim % cfg.decoder_attention_heads:
            raise UserError(
                f"--decoder-embed-dim {cfg.decoder_embed_dim} is not divisible by "
                f"--decoder-attention-heads {cfg.decoder_attention_heads}"
            )
        choose_fast_fp32_products()
        transformer = PrefixTransformer(
            vocab_size=len(task.dictionary),
            padding_idx=task.dictionary.pad(),
            embed_dim=cfg.decoder_embed_dim,
            num_layers=cfg.decoder_layers,
            num_heads=cfg.decoder_attention_heads,
            ffn_dim=cfg.decoder_ffn_embed_dim,
            max_positions=cfg.max_target_positions or task.needed_positions,
            num_segments=getattr(task, "num_segments", 0),
            dropout=cfg.dropout,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
            activation_fn=str(cfg.activation_fn),
            normalize_before=not cfg.decoder_normalize_after,
            checkpoint_activations=cfg.checkpoint_activations,
            bidirectional_prefix=cls.bidirectional_prefix,
        )
        if cfg.compile:
            for layer in transformer.layers:
                layer.compile(dynamic=True)
        return cls(task.dictionary, transformer)

    def forward(
        self,
        src_tokens,
        src_lengths=None,
        positions=None,
        segments=None,
        packing: Optional[Packing] = None,
        sides: Optional[DialogSides] = None,
        seq2seq: bool = False,
        features_only: bool = False,
    ):
        """Read whole rows and predict each next token.

        Args:
            src_tokens: int64 [B, T], padding at the right, or packed [1, N] together with
                ``positions`` [1, N] and ``packing`` (see
                :func:`~fairtale.modules.attention.packing_index`).
            seq2seq: read the prefixes of packed dialogs in both directions; needs ``sides``.
            features_only: leave out the projection to the vocabulary.

        Returns:
            logits [B, T, V] or features [B, T, C], and None.
        """
        if seq2seq:
            packed = prefix_rows(
                sides["prefix_lengths"], sides["response_lengths"], *sides["longest"]
            )
        else:
            packed = None if packing is None else PackedRows(**packing)
        x = self.transformer(src_tokens, positions, segments, packed)
        return (x if features_only else self.transformer.logits(x)), None

    def extract_features(self, src_tokens, **net_input):
        """Return the features [B, T, C] before the projection, and None."""
        return self(src_tokens, **net_input, features_only=True)

    def output_weight(self) -> torch.Tensor:
        """Return the projection to the vocabulary [V, C], which is the embedding."""
        return self.transformer.embed_tokens.weight

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        """Return fp32 (log-)probabilities [B, T, V]."""
        logits = net_output[0].float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)

    def max_positions(self):
        return self.transformer.max_positions

    def max_decoder_positions(self):
        return self.transformer.max_positions

    def upgrade_state_dict(self, state_dict):
        """Check that the checkpoint fits this dictionary and these positions."""
        super().upgrade_state_dict(state_dict)
        for key, own, what, remedy in (
            (
                "transformer.embed_tokens.weight",
                len(self.dictionary),
                "dictionary entries",
                "use the dict.txt it was trained with",
            ),
            (
                "transformer.embed_positions.weight",
                self.transformer.max_positions,
                "positions",
                "set --max-target-positions (or --tokens-per-sample) to those it has",
            ),
        ):
            if key in state_dict and state_dict[key].size(0) != own:
                raise UserError(
                    f"the checkpoint has {state_dict[key].size(0)} {what}, here are {own}: {remedy}"
                )


def _defaults(args, **values):
    for name, value in values.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


def shape_architecture(args, embed_dim, layers, heads, **values):
    """Give an architecture its shape, with an FFN four times as wide, where no option does."""
    _defaults(
        args,
        decoder_embed_dim=embed_dim,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_embed_dim=4 * embed_dim,
        **values,
    )


@register_model_architecture("gpt", "gpt_tiny")
def gpt_tiny(args):
    """For tests and for the quickstart: 0.8M parameters besides the embeddings."""
    shape_architecture(args, 128, 4, 4, attention_dropout=0.0)


@register_model_architecture("gpt", "gpt_story_24m")
def gpt_story_24m(args):
    """Stories: 512 wide, 6 layers, 8 heads; 22M parameters with 5,120 entries."""
    shape_architecture(args, 512, 6, 8, attention_dropout=0.0)


@register_model_architecture("gpt", "gpt_112m_half")
def gpt_112m_half(args):
    """Half the layers of ``gpt_112m``, with heads twice as wide."""
    shape_architecture(args, 768, 6, 6)


@register_model_architecture("gpt", "gpt_112m")
def gpt_112m(args):
    """GPT-2 small."""
    shape_architecture(args, 768, 12, 12)


@register_model_architecture("gpt", "gpt_345m")
def gpt_345m(args):
    """GPT-2 medium."""
    shape_architecture(args, 1024, 24, 16)

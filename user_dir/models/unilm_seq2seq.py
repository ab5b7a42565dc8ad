"""``unilm_seq2seq``: ``gpt`` whose prefix is read in both directions."""

from argparse import Namespace
from dataclasses import dataclass

from fairseq.models import register_model, register_model_architecture

from .gpt import GPTConfig, GPTModel, shape_architecture


@dataclass
class UniLMSeq2SeqConfig(GPTConfig):
    """Options of ``unilm_seq2seq``, which are those of ``gpt``."""


@register_model("unilm_seq2seq", dataclass=UniLMSeq2SeqConfig)
class UniLMSeq2SeqModel(GPTModel):
    """UniLM's sequence-to-sequence language model (Dong et al. 2019).

    It has the parameters of ``gpt``, but the tokens of a prefix attend to the whole prefix. The
    mask is in :mod:`~fairtale.modules.attention_masks`.
    """

    bidirectional_prefix = True


@register_model_architecture("unilm_seq2seq", "unilm_seq2seq_tiny")
def unilm_seq2seq_tiny(args: Namespace) -> None:
    """Set the shape for tests and for small data on a CPU."""
    shape_architecture(args, 128, 4, 4, attention_dropout=0.0)


@register_model_architecture("unilm_seq2seq", "unilm_seq2seq_base")
def unilm_seq2seq_base(args: Namespace) -> None:
    """Set the shape of BERT base and GPT-2 small."""
    shape_architecture(args, 768, 12, 12)

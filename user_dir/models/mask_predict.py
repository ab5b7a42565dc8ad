"""``mask_predict``: ``unilm_seq2seq`` whose replies, too, are read in both directions."""

from argparse import Namespace
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from fairseq.data import Dictionary
from fairseq.models import register_model, register_model_architecture
from torch import Tensor

from fairtale.errors import UserError
from fairtale.interfaces import DialogBatch, DialogSides, Packing, PrefixTask
from fairtale.modules.masked_replies import masked_rows
from fairtale.modules.prefix_transformer import PrefixTransformer

from .gpt import GPTConfig, GPTModel, shape_architecture


@runtime_checkable
class HidesReplies(PrefixTask, Protocol):
    """A task that hides what this model predicts."""

    def hide(self, sample: DialogBatch) -> DialogBatch:
        """Return the batch with hidden tokens of replies, which are its targets."""
        ...


@dataclass
class MaskPredictConfig(GPTConfig):
    """Options of ``mask_predict``, which are those of ``gpt``."""


@register_model("mask_predict", dataclass=MaskPredictConfig)
class MaskPredictModel(GPTModel):
    """The conditional masked language model of Ghazvininejad et al. 2019.

    It has the parameters of ``gpt``. The tokens of a prefix attend to the whole prefix, those of a
    reply to the prefix and to the whole reply, whose hidden tokens they predict. Deviation: instead
    of a token of its own, the last token of the prefix predicts the length of the reply
    (:mod:`~fairtale.data.dialog.masking`).
    """

    bidirectional_prefix = True

    def __init__(self, dictionary: Dictionary, transformer: PrefixTransformer) -> None:
        super().__init__(dictionary, transformer)
        del self.encoder, self.decoder  # they continue prefixes from left to right

    @classmethod
    def build_model(cls, cfg: GPTConfig, task: Any) -> Self:
        """Build the model; see :meth:`GPTModel.build_model`.

        Raises:
            UserError: the task trains models that write from left to right, or as there.
        """
        if not isinstance(task, HidesReplies):
            raise UserError(
                f"--arch mask_predict: reads whole replies, which {type(task).__name__} does not "
                "hide from it; use --task dialog_nat"
            )
        return super().build_model(cfg, task)

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
        """Read packed dialogs, and predict each token from all tokens that are not hidden.

        Args:
            src_tokens, positions, segments: int64 [1, N].
            sides: prefix and response lengths of the dialogs; required.
            src_lengths, packing, seq2seq: unused, but part of a packed batch.
            features_only: return the features before the projection to the vocabulary.

        Returns:
            Logits [1, N, V] or features [1, N, C], and None.
        """
        assert sides is not None, "the prefix and response lengths are needed"
        lengths = sides["prefix_lengths"], sides["response_lengths"]
        packed = masked_rows(*lengths, *sides["longest"])
        x = self.transformer(src_tokens, positions, segments, packed)
        if features_only:
            return self.transformer.features_for_loss(x), None
        return self.transformer.logits(x), None


@register_model_architecture("mask_predict", "mask_predict_tiny")
def mask_predict_tiny(args: Namespace) -> None:
    """Set the shape for tests and for small data on a CPU."""
    shape_architecture(args, 128, 4, 4, attention_dropout=0.0)


@register_model_architecture("mask_predict", "mask_predict_base")
def mask_predict_base(args: Namespace) -> None:
    """Set the shape of BERT base and GPT-2 small."""
    shape_architecture(args, 768, 12, 12)

"""``dialog_nat``: replies that are not written from left to right, to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.tasks import register_task
from fairseq.tasks.translation_lev import NOISE_CHOICES, TranslationLevenshteinTask
from torch import Tensor, nn

from fairtale.data.dialog.cutting import cut_prefix
from fairtale.data.dialog.sides import DialogSide
from fairtale.errors import UserError
from fairtale.interfaces import Batch
from fairtale.tasks.dialog import DialogDataConfig, DialogTask


@dataclass
class DialogNATConfig(DialogDataConfig):
    noise: NOISE_CHOICES = field(
        default="random_delete",
        metadata={"help": "what training hides of a reply; insertion_transformer: random_delete"},
    )


@register_task("dialog_nat", dataclass=DialogNATConfig)
class DialogNATTask(DialogTask):
    """Dialogs for fairseq's non-autoregressive models, from the same data as ``dialog_lm``.

    ``--arch insertion_transformer --criterion nat_loss`` trains Stern et al.'s (2019) model:
    the encoder reads the prefix, the decoder inserts tokens everywhere at once.
    ``--iter-decode-max-iter`` bounds the rounds of decoding, and so the length of replies:
    ``--max-len-b`` does not.
    """

    cfg: DialogNATConfig

    def __init__(self, cfg: DialogNATConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        # fairseq keeps the noise of training and the iterative generator in a task of its own
        self._levenshtein = TranslationLevenshteinTask(cfg, dictionary, dictionary)

    @property
    def src_dict(self) -> Dictionary:
        """The one dictionary, as fairseq's non-autoregressive models ask for it."""
        return self.dictionary

    @property
    def tgt_dict(self) -> Dictionary:
        """The one dictionary, as fairseq's non-autoregressive models ask for it."""
        return self.dictionary

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build one of fairseq's models; its own options give it at least the limits' positions."""
        for name, needed in zip(("max_source_positions", "max_target_positions"), self._positions):
            if not from_checkpoint and getattr(cfg, name, None) is not None:
                setattr(cfg, name, max(getattr(cfg, name), needed))
        return super().build_model(cfg, from_checkpoint)

    @property
    def _positions(self) -> tuple[int, int]:
        # one more for the end mark of a prefix, and for the begin mark of a response
        return self.limits.max_source_positions + 1, self.limits.max_target_positions + 1

    def max_positions(self) -> tuple[int, int]:
        """Return the longest prefix and the longest response, with their marks."""
        return self._positions

    # ------------------------------------------------------------------------------- data

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Load a split of every data folder that has it."""
        dialogs = self.load_dialogs(split, combine)
        source, target = DialogSide(dialogs, response=False), DialogSide(dialogs, response=True)
        self.datasets[split] = LanguagePairDataset(
            source,
            source.sizes,
            self.dictionary,
            target,
            target.sizes,
            self.dictionary,
            left_pad_source=False,
            shuffle=split == "train",
        )

    def build_dataset_for_inference(
        self,
        src_tokens: list[Tensor],
        src_lengths: Sequence[int],
        constraints: Any = None,
        **unused: Any,
    ) -> LanguagePairDataset:
        """Make prefixes of encoded dialogs (``fairseq-interactive``)."""
        begin, end = (torch.tensor([i]) for i in (self.dictionary.bos(), self.dictionary.eos()))
        rows = []
        for tokens in src_tokens:
            prefix = torch.from_numpy(cut_prefix(tokens[:-1].numpy(), self.ctx, self.limits))
            rows.append(torch.cat([begin, prefix, end]))
        sizes = np.array([len(row) for row in rows])
        return LanguagePairDataset(rows, sizes, self.dictionary, left_pad_source=False)

    # ----------------------------------------------------------------------- training

    def _hide(self, sample: Batch) -> dict[str, Any]:
        """Add to a batch what the model sees of its responses."""
        return {**sample, "prev_target": self._levenshtein.inject_noise(sample["target"])}

    def train_step(
        self,
        sample: Batch,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        """Train to restore the responses of a batch."""
        shown = self._hide(sample)
        return super().train_step(shown, model, criterion, optimizer, update_num, ignore_grad)

    def valid_step(self, sample: Batch, model: nn.Module, criterion: nn.Module) -> Any:
        """Validate how well the responses of a batch are restored."""
        return super().valid_step(self._hide(sample), model, criterion)

    def eval_lm_dataloader(self, dataset: Any, **unused: Any) -> NoReturn:
        """Refuse ``fairseq-eval-lm``, which scores texts from left to right.

        Raises:
            UserError: always.
        """
        raise UserError(
            "fairseq-eval-lm: a model that does not write from left to right has no perplexity; "
            "fairseq-validate gives its loss"
        )

    # --------------------------------------------------------------------- generation

    def build_generator(self, models: list[nn.Module], args: Any, **unused: Any) -> Any:
        """Build fairseq's iterative generator.

        Raises:
            UserError: options of left-to-right search, which would do nothing here.
        """
        for name, default in (
            ("sampling", False),
            ("no_repeat_ngram_size", 0),
            ("temperature", 1.0),
            ("min_len", 1),
        ):
            if getattr(args, name, default) != default:
                raise UserError(
                    f"--{name.replace('_', '-')}: a reply that is not written from left to right "
                    "has no next token to choose; leave it out"
                )
        if getattr(args, "nbest", 1) != 1:
            raise UserError(f"--nbest {args.nbest}: this model writes one reply; leave it out")
        return self._levenshtein.build_generator(models, args)

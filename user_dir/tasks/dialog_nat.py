"""``dialog_nat``: non-autoregressive generation of replies, for comparison with ``dialog_lm``."""

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
    """Options of ``dialog_nat``."""

    noise: NOISE_CHOICES = field(
        default="random_delete",
        metadata={
            "help": "noise that is added to replies in training (insertion_transformer needs "
            "random_delete)"
        },
    )


@register_task("dialog_nat", dataclass=DialogNATConfig)
class DialogNATTask(DialogTask):
    """Dialogs for fairseq's non-autoregressive models, from the same data as ``dialog_lm``.

    ``--arch insertion_transformer --criterion nat_loss`` trains the model of Stern et al. (2019):
    the encoder reads the prefix, and the decoder inserts tokens at all places in parallel. The
    length of replies is limited by the number of decoding iterations, ``--iter-decode-max-iter``,
    and not by ``--max-len-b``.
    """

    cfg: DialogNATConfig

    def __init__(self, cfg: DialogNATConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        # fairseq's Levenshtein task provides the noise for training and the iterative generator
        self._levenshtein = TranslationLevenshteinTask(cfg, dictionary, dictionary)

    @property
    def src_dict(self) -> Dictionary:
        """The dictionary, under the name that fairseq's non-autoregressive models use."""
        return self.dictionary

    @property
    def tgt_dict(self) -> Dictionary:
        """The dictionary, under the name that fairseq's non-autoregressive models use."""
        return self.dictionary

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build a fairseq model with at least as many positions as the task needs."""
        for name, needed in zip(("max_source_positions", "max_target_positions"), self._positions):
            if not from_checkpoint and getattr(cfg, name, None) is not None:
                setattr(cfg, name, max(getattr(cfg, name), needed))
        return super().build_model(cfg, from_checkpoint)

    @property
    def _positions(self) -> tuple[int, int]:
        # one more for the EOS token of a prefix, and one more for the BOS token of a response
        return self.limits.max_source_positions + 1, self.limits.max_target_positions + 1

    def max_positions(self) -> tuple[int, int]:
        """Return the maximum lengths of prefixes and responses, with their special tokens."""
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
        """Make a dataset of prefixes from encoded dialogs (for ``fairseq-interactive``)."""
        begin, end = (torch.tensor([i]) for i in (self.dictionary.bos(), self.dictionary.eos()))
        rows = []
        for tokens in src_tokens:
            prefix = torch.from_numpy(cut_prefix(tokens[:-1].numpy(), self.ctx, self.limits))
            rows.append(torch.cat([begin, prefix, end]))
        sizes = np.array([len(row) for row in rows])
        return LanguagePairDataset(rows, sizes, self.dictionary, left_pad_source=False)

    # ----------------------------------------------------------------------- training

    def _hide(self, sample: Batch) -> dict[str, Any]:
        """Add the noisy responses, which the model reads, to a batch."""
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
        """Train to restore the responses of a batch from their noisy form."""
        shown = self._hide(sample)
        return super().train_step(shown, model, criterion, optimizer, update_num, ignore_grad)

    def valid_step(self, sample: Batch, model: nn.Module, criterion: nn.Module) -> Any:
        """Compute the loss of restoring the responses of a batch from their noisy form."""
        return super().valid_step(self._hide(sample), model, criterion)

    def eval_lm_dataloader(self, dataset: Any, **unused: Any) -> NoReturn:
        """Refuse ``fairseq-eval-lm``, which scores texts from left to right.

        Raises:
            UserError: always.
        """
        raise UserError(
            "fairseq-eval-lm: a non-autoregressive model has no perplexity; fairseq-validate "
            "computes its loss"
        )

    # --------------------------------------------------------------------- generation

    def build_generator(self, models: list[nn.Module], args: Any, **unused: Any) -> Any:
        """Build fairseq's iterative generator.

        Raises:
            UserError: an option of left-to-right search is given, which would have no effect.
        """
        for name, default in (
            ("sampling", False),
            ("no_repeat_ngram_size", 0),
            ("temperature", 1.0),
            ("min_len", 1),
        ):
            if getattr(args, name, default) != default:
                raise UserError(
                    f"--{name.replace('_', '-')}: has no effect in non-autoregressive generation; "
                    "leave it out"
                )
        if getattr(args, "nbest", 1) != 1:
            raise UserError(f"--nbest {args.nbest}: this model generates one reply; leave it out")
        return self._levenshtein.build_generator(models, args)

"""``dialog_nat``: non-autoregressive generation of replies, by mask-predict."""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

from fairseq.data import Dictionary
from fairseq.tasks import register_task
from fairseq.utils import set_torch_seed
from omegaconf import open_dict
from torch import Tensor, nn

from fairtale.data.corpus.tokenizer_dictionary import num_predicted
from fairtale.data.dialog.dataset import DialogPrefixDataset
from fairtale.data.dialog.line_format import NUM_SEGMENTS
from fairtale.data.dialog.masking import FIRST_LENGTH, hide_replies
from fairtale.errors import UserError
from fairtale.generation.mask_predict import MaskPredictGenerator, Symbols, check_mask_predict
from fairtale.interfaces import DialogBatch
from fairtale.tasks.dialog import DialogDataConfig, DialogTask
from fairtale.tasks.dialog_batches import describe_prefixes, unpack_dialogs

from ..models.mask_predict import MaskPredictModel


@dataclass
class DialogNATConfig(DialogDataConfig):
    """Options of ``dialog_nat``."""


@register_task("dialog_nat", dataclass=DialogNATConfig)
class DialogNATTask(DialogTask):
    """Dialogs for ``mask_predict``, from the same data and batches as ``dialog_lm``.

    Training hides tokens of the replies; generation starts from hidden tokens alone.

    Raises:
        UserError: an option is out of range, or the dictionary is too small.
    """

    cfg: DialogNATConfig

    fast_fp32_products = True
    num_segments = NUM_SEGMENTS

    def __init__(self, cfg: DialogNATConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        self._asked: DialogPrefixDataset | None = None  # current buffer of fairseq-interactive
        end = FIRST_LENGTH + self.limits.max_target_positions
        if end > num_predicted(dictionary) or FIRST_LENGTH <= dictionary.pad() < end:
            raise UserError(
                f"--max-target-positions {self.limits.max_target_positions}: dialog_nat needs "
                f"{end} entries before padding in {cfg.data}/dict.txt, which has "
                f"{num_predicted(dictionary)}; use a larger vocabulary, or shorter responses"
            )

    # ----------------------------------------------------------------------- model, data

    @property
    def needed_positions(self) -> int:
        """The number of positions that a new model gets, as in ``dialog_lm``."""
        return max(self.limits.max_source_positions, self.limits.max_target_positions)

    def max_positions(self) -> None:
        """Return None, because rows are cut and hence never too long."""

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model; a new model gets the positions that the task's rows need.

        Raises:
            UserError: the model is not ``mask_predict``.
        """
        if not from_checkpoint:
            with nullcontext() if isinstance(cfg, Namespace) else open_dict(cfg):
                given = getattr(cfg, "max_target_positions", None) or 0
                cfg.max_target_positions = max(given, self.needed_positions)
        model = super().build_model(cfg, from_checkpoint)
        if not isinstance(model, MaskPredictModel):
            raise UserError(
                f"--arch: {type(model).__name__} is not trained by --task dialog_nat; use --arch "
                "mask_predict_base (docs/dialogs.md says why fairseq's own models are refused)"
            )
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the criterion.

        Raises:
            UserError: it is not ``label_smoothed_kl``.
        """
        name = getattr(cfg, "_name", None)
        if name != "label_smoothed_kl":
            raise UserError(f"--criterion {name}: dialog_nat needs label_smoothed_kl")
        return super().build_criterion(cfg, from_checkpoint)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Load a split of every data folder that has it."""
        self.datasets[split] = self.load_dialogs(split, combine)

    def build_dataset_for_inference(
        self,
        src_tokens: list[Tensor],
        src_lengths: Sequence[int] | None,
        constraints: Any = None,
        **unused: Any,
    ) -> DialogPrefixDataset:
        """Make a dataset of prefixes from encoded dialogs, without their ``</s>``."""
        prefixes = [tokens[:-1].numpy() for tokens in src_tokens]
        self._asked = DialogPrefixDataset(prefixes, self.dictionary, self.ctx, self.limits)
        return self._asked

    # --------------------------------------------------------------------------- training

    def hide(self, sample: DialogBatch) -> DialogBatch:
        """Return the batch with hidden tokens of replies, which are its targets."""
        return hide_replies(sample, self.dictionary.unk(), self.dictionary.pad())

    def train_step(
        self,
        sample: DialogBatch,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        """Train to restore hidden tokens of replies, and to predict their lengths."""
        shown = self.hide(sample)
        return super().train_step(shown, model, criterion, optimizer, update_num, ignore_grad)

    def valid_step(self, sample: DialogBatch, model: nn.Module, criterion: nn.Module) -> Any:
        """Compute the loss of restoring tokens, which are the same in every validation."""
        with set_torch_seed(1):
            shown = self.hide(sample)
        return super().valid_step(shown, model, criterion)

    def eval_lm_dataloader(self, dataset: Any, **unused: Any) -> NoReturn:
        """Refuse ``fairseq-eval-lm``, which scores texts from left to right.

        Raises:
            UserError: always.
        """
        raise UserError(
            "fairseq-eval-lm: a non-autoregressive model has no perplexity; fairseq-validate "
            "computes its loss"
        )

    # ------------------------------------------------------------------------- generation

    def build_generator(self, models: list[nn.Module], args: Any, **unused: Any) -> Any:
        """Build the generator of mask-predict.

        Raises:
            UserError: an option is out of range or has no effect, or there are several models.
        """
        check_mask_predict(args)
        if len(models) > 1:
            raise UserError("--path: models of dialog_nat form no ensemble; give one of them")
        words = self.dictionary
        special = (words.pad(), words.eos(), words.bos(), words.unk(), self.ctx, self.sep)
        symbols = Symbols(words.unk(), *special[:2], FIRST_LENGTH, special)
        limit, shortest = self.limits.max_target_positions - 1, getattr(args, "min_len", 1)
        if limit < shortest:
            raise UserError(
                f"--min-len {shortest}: a reply has at most {limit} tokens, which "
                "--max-target-positions sets"
            )
        return MaskPredictGenerator(
            symbols,
            passes=getattr(args, "iter_decode_max_iter", 10) + 1,  # the first refines nothing
            candidates=getattr(args, "beam", 5),
            lengths=(max(shortest, 1), min(getattr(args, "max_len_b", 200), limit)),
        )

    def inference_step(
        self,
        generator: Any,
        models: list[nn.Module],
        sample: Any,
        prefix_tokens: Tensor | None = None,
        constraints: Any = None,
    ) -> list[Any]:
        """Generate replies to the prefixes of a batch; unpack whole dialogs first, in place."""
        if "sides" in sample["net_input"]:
            sample.update(unpack_dialogs(sample, self.dictionary.pad()))
        elif "segments" not in sample["net_input"]:
            assert self._asked is not None
            sample["net_input"] = describe_prefixes(sample["net_input"], self._asked)
        replies: list[Any] = generator.generate(models, sample)
        return replies

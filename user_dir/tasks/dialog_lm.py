"""``dialog_lm``: train a causal or UniLM sequence-to-sequence model to reply to dialogs."""

import math
import random
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.data import Dictionary
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import II
from torch import nn

from fairtale.data.dialog.dataset import Echo
from fairtale.errors import UserError
from fairtale.interfaces import DialogBatch
from fairtale.tasks.dialog import DialogTask
from fairtale.tasks.dialog_batches import dialog_view
from fairtale.tasks.dialog_replies import ReplyConfig, ReplyTask

from ..models.unilm_seq2seq import UniLMSeq2SeqModel


@dataclass
class DialogLMConfig(ReplyConfig):
    """Options of ``dialog_lm``."""

    seq2seq_prob: Optional[float] = field(
        default=None,
        metadata={
            "help": "share of updates that read the prefix in both directions and predict only "
            "the response; the other updates are causal and predict every token (default: 0.25; "
            "with gpt: 0)"
        },
    )
    response_only: bool = field(
        default=False,
        metadata={
            "help": "predict only the responses in causal updates, too, as in fine-tuning on "
            "questions and answers"
        },
    )
    echo_query_prob: Optional[float] = field(
        default=None,
        metadata={
            "help": "training: probability that a dialog has its query as its response, drawn for "
            "each dialog in each epoch (default: 0)"
        },
    )
    reverse: bool = field(
        default=False,
        metadata={"help": "learn to predict the query from the response, for --mmi-path"},
    )
    sample_prompts: Optional[str] = field(
        default=None,
        metadata={
            "help": "queries that the model answers at each validation, separated by '|' (turns "
            "of a dialog by tabs); the replies are written to the log and to TensorBoard"
        },
    )
    sample_length: int = field(
        default=40, metadata={"help": "maximum length of the replies to --sample-prompts"}
    )
    sample_topk: int = field(
        default=10, metadata={"help": "top-k for sampling the replies to --sample-prompts"}
    )
    sample_temperature: float = field(
        default=1.0,
        metadata={"help": "temperature for sampling the replies to --sample-prompts"},
    )
    seed: int = II("common.seed")
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_task("dialog_lm", dataclass=DialogLMConfig)
class DialogLMTask(ReplyTask):
    """Replies to dialogs, read as ``context <CTX> query <SEP> response``.

    Raises:
        UserError: an option is out of range.
    """

    cfg: DialogLMConfig

    remembered = {
        **DialogTask.remembered,
        "seq2seq_prob": None,
        "response_only": False,
        "echo_query_prob": 0.0,
        "reverse": False,
    }

    def __init__(self, cfg: DialogLMConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        if cfg.seq2seq_prob is not None and not 0 <= cfg.seq2seq_prob <= 1:
            raise UserError(f"--seq2seq-prob {cfg.seq2seq_prob}: must be a probability, 0 to 1")
        echo = cfg.echo_query_prob
        if echo is not None and not 0 <= echo <= 1:
            raise UserError(f"--echo-query-prob {echo}: must be a probability, 0 to 1")
        if echo and cfg.reverse:
            raise UserError(
                f"--echo-query-prob {echo} with --reverse: the query is not given there, but "
                "predicted; leave one of them out"
            )
        for name in ("reverse", "response_only"):
            self._options[name] = getattr(cfg, name) or None
        # of the last checkpoint: whether its prefix is read in both directions, and it is reversed
        self._reads: tuple[bool, bool] | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the options that are not given from the task state of a checkpoint.

        Raises:
            UserError: the checkpoint was trained with another dictionary, or is part of an ensemble
                whose models do not read the same.
        """
        reads = (bool(state_dict.get("seq2seq_prob")), bool(state_dict.get("reverse")))
        first, self._reads = self._reads or reads, reads
        if first != reads and self.cfg.seq2seq_prob is None:
            raise UserError(
                "--path: the models of an ensemble must read dialogs in the same way, but some "
                "are causal and others read the prefix in both directions (--seq2seq-prob), or "
                "only some are trained with --reverse: leave the others out"
            )
        super().load_state_dict(state_dict)

    # ----------------------------------------------------------------------- model, data

    @property
    def is_reverse(self) -> bool:
        """Whether the model predicts the query from the response."""
        return bool(self.option("reverse"))

    @property
    def reads_both_ways(self) -> bool:
        """Whether decoding reads the prefix in both directions, as some training updates do."""
        return bool(self.option("seq2seq_prob") > 0)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, and set the default share of seq2seq updates.

        Raises:
            UserError: seq2seq updates are requested for a model that reads prefixes causally.
        """
        model = super().build_model(cfg, from_checkpoint)
        can_read_both_ways = isinstance(model, UniLMSeq2SeqModel)
        probability = self.option("seq2seq_prob")
        if probability is None:
            probability = 0.25 if can_read_both_ways else 0.0
        if probability > 0 and not can_read_both_ways:
            raise UserError(
                f"--seq2seq-prob {probability}: {type(model).__name__} reads the prefix causally; "
                "use --arch unilm_seq2seq"
            )
        self._options["seq2seq_prob"] = probability
        return model

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Load a split of every data folder that has it."""
        share = self.option("echo_query_prob") if split == "train" else 0
        echo = Echo(share, self.cfg.seed) if share else None
        dataset = self.load_dialogs(split, combine, self.is_reverse, echo)
        dataset.keeps_context = bool(self.cfg.block_context_ngram)
        self.datasets[split] = dataset

    # --------------------------------------------------------------------------- training

    def is_seq2seq_update(self, update_num: int) -> bool:
        """Choose the kind of an update at random, equally on all workers and after resuming."""
        draw = random.Random(f"{self.cfg.seed} {update_num}").random()
        return bool(draw < self.option("seq2seq_prob"))

    def _view(self, sample: DialogBatch, seq2seq: bool, response_only: bool) -> DialogBatch:
        return dialog_view(sample, seq2seq, response_only, self.dictionary.pad())

    def train_step(
        self,
        sample: DialogBatch,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        """Train on a batch, with the kind of attention chosen for this update."""
        seq2seq = self.is_seq2seq_update(update_num)
        only = seq2seq or self.is_reverse or bool(self.option("response_only"))
        sample = self._view(sample, seq2seq, response_only=only)
        sample["update_num"] = update_num  # criterions use it as a seed, as this task does
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def valid_step(self, sample: DialogBatch, model: nn.Module, criterion: nn.Module) -> Any:
        """Compute the loss of responses as in decoding, and also with causal attention."""
        both_ways = self.reads_both_ways
        main = self._view(sample, both_ways, response_only=True)
        loss, sample_size, logging_output = super().valid_step(main, model, criterion)
        if both_ways:
            causal = self._view(sample, seq2seq=False, response_only=True)
            causal_output = super().valid_step(causal, model, criterion)[2]
            logging_output["seq2seq_nll_loss"] = _nll_loss(logging_output)
            logging_output["causal_nll_loss"] = _nll_loss(causal_output)
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: nn.Module) -> None:
        """Log the criterion's metrics, and the seq2seq and causal losses in bits per token."""
        super().reduce_metrics(logging_outputs, criterion)
        tokens = sum(float(log.get("ntokens", 0)) for log in logging_outputs)
        for name in ("seq2seq_nll_loss", "causal_nll_loss"):
            if any(name in log for log in logging_outputs):
                total = sum(float(log.get(name, 0)) for log in logging_outputs)
                metrics.log_scalar(name, total / tokens / math.log(2), tokens, round=3)


def _nll_loss(logging_output: dict[str, Any]) -> Any:
    return logging_output.get("nll_loss", logging_output["loss"])

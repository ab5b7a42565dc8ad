"""Compute BLEU of plain text in validation, and log some of the translations."""

import json
import logging
from argparse import Namespace
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from fairseq.logging import metrics
from fairseq.tasks.translation import EVAL_BLEU_ORDER
from sacrebleu.metrics import BLEU

from ..errors import UserError
from ..generation.sample_log import SampleWriter

logger = logging.getLogger(__name__)


def read_bleu_args(text: str | None) -> Namespace:
    """Parse the generation options in ``--eval-bleu-args``, a JSON object.

    Raises:
        UserError: the text is not valid JSON, or not an object.
    """
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise UserError(f"--eval-bleu-args {text}: not valid JSON ({error})") from None
    if not isinstance(options, dict):
        raise UserError(
            f'--eval-bleu-args {text}: must be an object of options and values, as {{"beam": 4}}'
        )
    return Namespace(**options)


class ValidationBLEU:
    """Compute BLEU statistics of batches, and log sacreBLEU's signature with the first batch."""

    def __init__(self) -> None:
        self._bleu: Any = None

    def score(self, translations: list[str], references: list[str]) -> Any:
        """Return sacreBLEU's score of a batch, with ``counts``, ``totals`` and lengths."""
        is_first = self._bleu is None
        if is_first:
            self._bleu = BLEU()
        score = self._bleu.corpus_score(translations, [references])
        if is_first:
            logger.info("BLEU signature: %s", self._bleu.get_signature().format())
        return score

    @staticmethod
    def of_nothing() -> Any:
        """Return the statistics of a batch without scored sentences."""
        zeros = [0] * EVAL_BLEU_ORDER
        return SimpleNamespace(sys_len=0, ref_len=0, counts=zeros, totals=zeros)


def log_bleu(logging_outputs: list[dict[str, Any]]) -> None:
    """Sum the statistics of all batches and workers, and log their BLEU.

    Unlike fairseq's implementation, this also works if every translation is empty.
    """
    if not any("_bleu_ref_len" in log for log in logging_outputs):
        return

    def total(name: str) -> float:
        return float(sum(log.get(name, 0) for log in logging_outputs))

    for name in ("counts", "totals"):
        sums = [total(f"_bleu_{name}_{i}") for i in range(EVAL_BLEU_ORDER)]
        metrics.log_scalar(f"_bleu_{name}", np.array(sums))
    for name in ("_bleu_sys_len", "_bleu_ref_len"):
        metrics.log_scalar(name, total(name))
    metrics.log_derived("bleu", _bleu_of_sums)


def _bleu_of_sums(meters: Any) -> float:
    # tolist makes copies, because sacreBLEU changes the lists, and a meter's sum is an array
    counts, totals = (meters[f"_bleu_{name}"].sum.tolist() for name in ("counts", "totals"))
    lengths = (int(meters[f"_bleu_{name}_len"].sum) for name in ("sys", "ref"))
    score: float = BLEU.compute_bleu(counts, totals, *lengths, smooth_method="exp").score
    return round(score, 2)


@dataclass(frozen=True)
class SampleTranslation:
    """A validation sentence, its translation by the model, and its reference."""

    id: int  # number of the sentence in its split
    source: str
    translation: str
    reference: str


class TranslationSamples:
    """Collect translations during validation, and write some of them to the log and TensorBoard.

    Args:
        count: number of translations to write at each validation.
        tensorboard_logdir: folder for the TensorBoard files; None to write no such files.
    """

    def __init__(self, count: int, tensorboard_logdir: str | None) -> None:
        self.count = count
        self.tensorboard_logdir = tensorboard_logdir
        self.found: list[SampleTranslation] = []
        self.writer: Any = None

    def take(self) -> list[SampleTranslation]:
        """Return ``count`` samples of different lengths, and clear the collection."""
        found, self.found = self.found, []
        count = min(self.count, len(found))
        # batches are sorted by length; take the middle of each of `count` equal parts
        return [found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count)]

    def write(self, samples: list[SampleTranslation], num_updates: int) -> None:
        """Write the translations of a validation after ``num_updates`` updates."""
        if self.writer is None:
            self.writer = SampleWriter(self.tensorboard_logdir).writer
        for sample in samples:
            logger.info("translation of sentence %d @ %d updates", sample.id, num_updates)
            logger.info("  %-9s %s", "source", sample.source)
            logger.info("  %-9s %s", "model", sample.translation)
            logger.info("  %-9s %s", "reference", sample.reference)
            if self.writer is not None:
                lines = f"{sample.source}\n\n**{sample.translation}**\n\n{sample.reference}"
                self.writer.add_text(f"translation/{sample.id}", lines, num_updates)
        if self.writer is not None:
            self.writer.flush()

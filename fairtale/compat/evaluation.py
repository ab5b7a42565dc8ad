"""Refuse evaluations that score no sample, for which fairseq reports a perfect result."""

import functools
from typing import Any

from fairseq.tasks.language_modeling import LanguageModelingTask

from ..errors import UserError


def cure_empty_evaluation() -> None:
    """Refuse to evaluate a split if no sample is left to score.

    ``fairseq-eval-lm`` skips blocks that are longer than the model's positions, and prints
    "Perplexity: 1.00" if no block remains. Remove this work-around once the command fails then.
    """
    original = LanguageModelingTask.eval_lm_dataloader

    @functools.wraps(original)
    def eval_lm_dataloader(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return refuse_empty_evaluation(original(self, dataset, *args, **kwargs), len(dataset))

    LanguageModelingTask.eval_lm_dataloader = eval_lm_dataloader


def refuse_empty_evaluation(batches: Any, num_samples: int) -> Any:
    """Return ``batches``, or raise an error if there are none.

    Args:
        batches: fairseq's iterator of batches, which has a length.
        num_samples: number of samples in the split.

    Raises:
        UserError: no sample is left to score.
    """
    if len(batches) == 0:
        raise UserError(
            f"0 of {num_samples} samples are left to score: each is empty or longer than the "
            "model's positions; set --tokens-per-sample to at most those positions"
        )
    return batches

"""Refuse evaluations that score no sample, for which fairseq reports a perfect result."""

import functools
from collections.abc import Iterator
from typing import Any

from fairseq.tasks.language_modeling import LanguageModelingTask

from ..errors import UserError


def cure_empty_evaluation() -> None:
    """Refuse to evaluate a split if no sample is left to score.

    ``fairseq-eval-lm`` skips blocks that are longer than the model's positions, and prints
    "Perplexity: 1.00" if no block remains, or if ``--num-shards`` is larger than the number of
    batches, so that the shard is empty. Remove this work-around once the command fails then.
    """
    original = LanguageModelingTask.eval_lm_dataloader

    @functools.wraps(original)
    def eval_lm_dataloader(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return refuse_empty_evaluation(original(self, dataset, *args, **kwargs), len(dataset))

    LanguageModelingTask.eval_lm_dataloader = eval_lm_dataloader


def refuse_empty_evaluation(batches: Any, num_samples: int) -> Any:
    """Return the batches, or an error if there are none.

    Args:
        batches: fairseq's iterator of batches, which has a length. In a shard with fewer batches
            than others, some are empty.
        num_samples: number of samples in the split.

    Raises:
        UserError: no sample is left to score; at the end of the iteration if the shard is empty.
    """
    if len(batches) == 0:
        raise UserError(
            f"0 of {num_samples} samples are left to score: each is empty or longer than the "
            "model's positions; set --tokens-per-sample to at most those positions"
        )
    return _Batches(batches)


class _Batches:
    """Iterate over batches, and fail at the end if all were empty."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        found = False
        for batch in self.batches:
            found = found or bool(batch)
            yield batch
        if not found:
            raise UserError(EMPTY_SHARD)


EMPTY_SHARD = (
    "--shard-id: this shard has no sample, because the split has fewer batches than --num-shards; "
    "give fewer shards, or make smaller batches with --max-tokens or --batch-size"
)

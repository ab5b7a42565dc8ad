"""Cures of what fairseq gets wrong without a word: lost samples, blocking that does not block."""

import functools

import numpy as np
from fairseq import ngram_repeat_block
from fairseq.data import data_utils
from fairseq.tasks.language_modeling import LanguageModelingTask

from ..errors import UserError
from ..modules.ngram_blocking import block_repeated_ngrams


def cure_lost_batches():
    """fairseq drops the last batch of a split when its size is no multiple of 8.

    ``data_utils.batch_by_size`` ends with ``b = b[:-1]``: of 100 sentences 96 are
    trained, validated or generated, without a word. The batches made are the original
    ones; what was cut off is put back. Needless once upstream drops those two lines.
    """
    original = data_utils.batch_by_size

    @functools.wraps(original)
    def batch_by_size(indices, *args, **kwargs):
        if not isinstance(indices, np.ndarray):
            indices = np.fromiter(indices, dtype=np.int64, count=-1)
        if len(indices) == 0:
            return []
        batches = list(original(indices, *args, **kwargs))
        covered = sum(len(batch) for batch in batches)
        fixed_shapes = kwargs.get("fixed_shapes") or (len(args) > 5 and args[5])
        if not fixed_shapes and covered < len(indices):
            batches.append(indices[covered:])
        return batches

    data_utils.batch_by_size = batch_by_size


def cure_ngram_blocking():
    """``--no-repeat-ngram-size`` blocks nothing: fairseq compares the padding.

    ``tokens`` is the whole buffer, so its last columns are padding until the very end.
    Ours is vectorised and runs on any device. Needless once upstream slices by step.
    """

    def forward(self, tokens, lprobs, bsz, beam_size, step):
        # column 0 is the begin mark, which is no word: with n = 1 it would forbid the end
        return block_repeated_ngrams(tokens[:, 1 : step + 1], lprobs, self.no_repeat_ngram_size)

    ngram_repeat_block.NGramRepeatBlock.forward = forward


def cure_empty_evaluation():
    """``fairseq-eval-lm`` prints "Perplexity: 1.00" after it has scored nothing."""
    original = LanguageModelingTask.eval_lm_dataloader

    @functools.wraps(original)
    def eval_lm_dataloader(self, dataset, *args, **kwargs):
        return refuse_empty_evaluation(original(self, dataset, *args, **kwargs), len(dataset))

    LanguageModelingTask.eval_lm_dataloader = eval_lm_dataloader


def refuse_empty_evaluation(batches, num_samples):
    """Return ``batches`` unless there are none.

    Raises:
        UserError: not one of ``num_samples`` samples is left to be scored.
    """
    if len(batches) == 0:
        raise UserError(
            f"0 of {num_samples} samples are left to score: each is empty or longer than the "
            "model's positions; set --tokens-per-sample to at most those positions"
        )
    return batches

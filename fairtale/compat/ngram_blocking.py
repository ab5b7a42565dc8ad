"""Cure of ``--no-repeat-ngram-size``, which blocks nothing."""

from typing import Any

from fairseq import ngram_repeat_block

from ..modules.ngram_blocking import block_repeated_ngrams


def cure_ngram_blocking() -> None:
    """Forbid the next tokens that would repeat an n-gram of what is already written.

    fairseq compares the last columns of the whole buffer, which are padding until the very end.
    The version used here is vectorised and runs on any device. Needless once fairseq compares
    the columns before the current step.
    """

    def forward(self: Any, tokens: Any, lprobs: Any, bsz: int, beam_size: int, step: int) -> Any:
        # column 0 is the begin mark, which is no word: with n = 1 it would forbid the end
        return block_repeated_ngrams(tokens[:, 1 : step + 1], lprobs, self.no_repeat_ngram_size)

    ngram_repeat_block.NGramRepeatBlock.forward = forward

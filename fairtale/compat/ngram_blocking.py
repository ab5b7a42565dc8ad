"""Work around ``--no-repeat-ngram-size``, which has no effect in fairseq."""

from typing import Any

from fairseq import ngram_repeat_block

from ..modules.ngram_blocking import block_repeated_ngrams


def cure_ngram_blocking() -> None:
    """Forbid next tokens that would repeat an n-gram of the generated tokens.

    fairseq compares the last columns of the whole token buffer, which are padding until the last
    step. The replacement is vectorised and runs on any device. Remove this work-around once fairseq
    compares the columns before the current step.
    """

    def forward(self: Any, tokens: Any, lprobs: Any, bsz: int, beam_size: int, step: int) -> Any:
        # column 0 holds the token that starts generation; it is EOS, which n = 1 would forbid
        return block_repeated_ngrams(tokens[:, 1 : step + 1], lprobs, self.no_repeat_ngram_size)

    ngram_repeat_block.NGramRepeatBlock.forward = forward

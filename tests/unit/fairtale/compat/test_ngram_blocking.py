"""``--no-repeat-ngram-size``, compared with fairseq's own, which has no effect."""

import torch
from fairseq import ngram_repeat_block

from tests.compat_helpers import pristine


def test_ngrams_are_blocked():
    """``tokens`` is the whole buffer: EOS token, generated tokens, padding."""
    buffer = torch.tensor([[2, 5, 6, 7, 5, 6, 1, 1, 1, 1]])

    def blocked(module):
        block = module.NGramRepeatBlock(3, use_extension=False)
        lprobs = block(buffer, torch.zeros(1, 10), bsz=1, beam_size=1, step=5)
        return lprobs[0].isinf().nonzero().flatten().tolist()

    assert blocked(ngram_repeat_block) == [7]  # the trigram 5 6 7 has occurred
    assert blocked(pristine("fairseq.ngram_repeat_block")) == []

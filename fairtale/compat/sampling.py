"""Sample from what is left after masking."""

import functools
from typing import Any

from fairseq.search import Sampling
from torch import Tensor


def cure_masked_mass() -> None:
    """Normalise the probabilities of the tokens that are left, before one is sampled.

    fairseq masks tokens (padding, the end mark before ``--min-len``, blocked n-grams) and then
    compares ``--sampling-topp`` with sums of what is left, as if the masked tokens were still
    there: the nucleus is too large, or the whole vocabulary. Where what is left has almost no
    probability, as at the maximum length, where only the end mark is, it underflows and sampling
    fails. ``--sampling-topk`` above the size of the vocabulary fails as well. The scores of
    hypotheses stay those of the model. Remove this work-around once ``Sampling.step`` normalises.
    """
    original = Sampling.step

    @functools.wraps(original)
    def step(self: Any, step: int, lprobs: Tensor, scores: Tensor, *args: Any) -> Any:
        left = lprobs.logsumexp(2, keepdim=True)  # [B, K, 1]
        left = left.masked_fill(left.isinf(), 0.0)
        self.sampling_topk = min(self.sampling_topk, lprobs.size(2))
        drawn, tokens, beams = original(self, step, lprobs - left, scores, *args)
        return drawn + left.squeeze(2).gather(1, beams), tokens, beams

    Sampling.step = step

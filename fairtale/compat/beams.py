"""Let no hypothesis of a beam search go on behind its end mark."""

import functools
from typing import Any

import torch
from fairseq.search import BeamSearch
from torch import Tensor


def cure_ended_beams() -> None:
    """Give no continuation to a hypothesis that has ended.

    The first step has as many candidates as there are words. With a beam as large as that,
    ``SequenceGenerator`` keeps a hypothesis that consists of the end mark among the others. It is
    not to be ended twice, but its continuations take part in the search. Remove this work-around
    once ``SequenceGenerator`` masks them.
    """
    original = BeamSearch.step

    @functools.wraps(original)
    def step(
        self: Any,
        step: int,
        lprobs: Tensor,
        scores: Any,
        prev_output_tokens: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        beam, size = lprobs.shape[1:]
        # smaller beams have enough other candidates
        if step > 0 and prev_output_tokens is not None and beam > size - 3:
            ended = prev_output_tokens[:, -1].view(-1, beam, 1) == self.eos
            lprobs = lprobs.masked_fill(ended, -torch.inf)
        return original(self, step, lprobs, scores, prev_output_tokens, *args, **kwargs)

    BeamSearch.step = step

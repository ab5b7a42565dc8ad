"""Hypotheses that have ended."""

import math

import pytest
import torch
from fairseq.search import BeamSearch

from tests.compat_helpers import pristine
from tests.helpers import generate, tiny_dictionary, tiny_model, tiny_task


def step(kind):
    """Choose among the continuations of three hypotheses, of which the second has ended."""
    search = kind(tiny_dictionary(1))  # four special symbols and a word
    lprobs = torch.full((1, 3, 5), -9.0)
    lprobs[0, 1, 4] = -0.5  # the best one continues the second hypothesis
    tokens = torch.tensor([[2, 4], [2, 2], [2, 3]])
    scores = torch.tensor([[-1.0, -1.0, -1.0]]).unsqueeze(2)
    found, words, beams = search.step(1, lprobs, scores, tokens)
    return found[0].tolist(), words[0].tolist(), beams[0].tolist()


def test_what_has_ended_is_not_continued():
    scores, _, beams = step(BeamSearch)
    assert 1 not in [b for b, score in zip(beams, scores) if score > -math.inf]
    assert step(pristine("fairseq.search").BeamSearch)[2][0] == 1  # fairseq alone


@pytest.mark.parametrize("beam", [3, 4, 5, 6])
def test_no_hypothesis_has_an_end_mark_inside(beam):
    """With as many beams as there are words, also at ``--min-len 0``."""
    dictionary = tiny_dictionary(3)  # seven entries
    task, model = tiny_task(dictionary), tiny_model(dictionary, seed=4)
    for seed in range(4):
        torch.manual_seed(seed)
        model.transformer.embed_tokens.weight.data.normal_(std=0.3)
        for group in generate(task, [model], [[4, 5], [6]], beam=beam, min_len=0, max_len_b=4):
            for hypo in group:
                assert hypo["tokens"].tolist().index(2) == len(hypo["tokens"]) - 1

"""Sampling from what is left after masking."""

import math

import pytest
import torch
from fairseq.search import Sampling

from tests.compat_helpers import pristine
from tests.helpers import tiny_dictionary

NUM_DRAWS = 2000


def draw(kind, lprobs, topk=-1, topp=-1.0, step=0):
    """Draw one token for each of ``NUM_DRAWS`` beams; return scores and tokens."""
    search = kind(tiny_dictionary(6), topk, topp)
    rows = lprobs.expand(1, NUM_DRAWS, -1).clone()
    scores, tokens, _ = search.step(step, rows, torch.zeros(1, NUM_DRAWS, 1))
    return scores[0], tokens[0]


def masked(probs, *tokens):
    lprobs = torch.tensor(probs).log()
    lprobs[list(tokens)] = -math.inf
    return lprobs


# without the first one, the nucleus of 0.75 holds the tokens 1, 2 and 3
PROBS = [0.5, 0.2, 0.15, 0.05, 0.04, 0.03, 0.02, 0.005, 0.003, 0.002]


@pytest.mark.parametrize("step", [0, 1])
def test_the_nucleus_is_that_of_the_tokens_left(step):
    scores, tokens = draw(Sampling, masked(PROBS, 0), topp=0.75, step=step)
    assert set(tokens.tolist()) == {1, 2, 3}
    # a hypothesis is scored by the model's own probabilities
    expected = masked(PROBS, 0)[tokens]
    assert torch.allclose(scores, expected, atol=1e-5)


def test_fairseq_alone_draws_from_too_many():
    """Remove the work-around when this test fails."""
    stock = pristine("fairseq.search").Sampling
    assert len(set(draw(stock, masked(PROBS, 0), topp=0.75)[1].tolist())) > 3


@pytest.mark.parametrize("options", [{}, {"topp": 0.9}, {"topk": 3}])
def test_frequencies(options):
    torch.manual_seed(1)
    _, tokens = draw(Sampling, masked(PROBS, 0, 1), **options)
    kept = PROBS[2:5] if "topk" in options else PROBS[2:7] if "topp" in options else PROBS[2:]
    assert set(tokens.tolist()) <= {*range(2, 2 + len(kept))}
    share = (tokens == 2).double().mean().item()
    assert share == pytest.approx(0.15 / sum(kept), abs=0.04)


@pytest.mark.parametrize("options", [{}, {"topp": 0.9}, {"topk": 3}, {"topk": 50}])
def test_what_is_left_may_have_almost_no_probability(options):
    lprobs = torch.full((10,), -math.inf)
    lprobs[2] = -400.0
    scores, tokens = draw(Sampling, lprobs, **options)
    assert (tokens == 2).all() and torch.allclose(scores, torch.tensor(-400.0))

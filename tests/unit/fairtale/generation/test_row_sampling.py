"""The choice of the next tokens of many texts, each with its own options."""

import math

import pytest
import torch

from fairtale.generation.row_sampling import (
    RowOptions,
    TextState,
    choose_rows,
    choose_tokens,
    divide_by_temperature,
)

EOS = 2
NOTHING = RowOptions(temperature=0)


def state(options=NOTHING, seed=0, context=(0,), written=()):
    text = TextState(options, seed, context, EOS)
    for token in written:
        text.append(token)
    return text


def choose(logits, *texts, **others):
    return choose_rows(logits.clone(), texts, **others).tokens


def left_by(scores, topk, topp):
    """Return the tokens that the options leave, with their probabilities."""
    probs, tokens = scores.softmax(0).double().sort(descending=True, stable=True)
    if topk > 0:
        probs, tokens = probs[:topk], tokens[:topk]
    probs = probs / probs.sum()
    if 0 < topp < 1:
        inside = probs.cumsum(0) - probs < topp
        probs, tokens = probs[inside], tokens[inside]
    return dict(zip(tokens.tolist(), (probs / probs.sum()).tolist()))


# ------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("vocabulary", [20, 100, 700])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_tokens_are_drawn_with_their_probabilities(vocabulary, scale):
    count = 1000
    scores = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * scale
    draws = ((torch.arange(count) + 0.5) / count).tolist()
    for topk in (-1, 1, 5, 70, 9999):
        for topp in (1.0, 0.1, 0.9, -1.0):
            chosen = choose_tokens(scores.expand(count, -1), [topk] * count, [topp] * count, draws)
            found, left = torch.bincount(chosen, minlength=vocabulary), left_by(scores, topk, topp)
            assert set(chosen.tolist()) <= set(left)
            for token in range(vocabulary):
                assert abs(found[token] / count - left.get(token, 0)) < 1.01 / count


def test_a_row_does_not_depend_on_the_others():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(40, 3000, generator=generator) * 2
    topk = [(-1, 0, 1, 5, 64, 65, 1500)[i % 7] for i in range(40)]
    topp = [(1.0, 0.2, 0.9, 0.999)[i % 4] for i in range(40)]
    draws = torch.rand(40, generator=generator, dtype=torch.float64).tolist()
    together = choose_tokens(scores, topk, topp, draws).tolist()
    for i in range(40):
        alone = choose_tokens(scores[i : i + 1], topk[i : i + 1], topp[i : i + 1], [draws[i]])
        assert alone.tolist() == [together[i]]


def test_the_largest_draw_takes_no_token_of_probability_zero():
    lprobs = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).log()
    for topp in (1.0, 0.9):
        assert choose_tokens(lprobs, [-1], [topp], [1.0]).item() in (0, 1)


def test_random_numbers_depend_on_the_seed_and_the_number_of_the_token():
    numbers = [[text.draw() for _ in range(70)] for text in (state(seed=5), state(seed=6))]
    assert numbers[0] == [state_.draw() for state_ in [state(seed=5)] for _ in range(70)]
    expected = torch.rand(70, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert numbers[0] == expected.tolist() != numbers[1]


def test_any_temperature_leaves_the_most_probable_token():
    logits = torch.tensor([[1e4, 0.0, -torch.inf]])
    for temperature in (1e-300, 1.0, 1e30, torch.tensor([[1e-40]])):
        assert divide_by_temperature(logits, temperature)[0, 0] == 0


# ------------------------------------------------------------------- options of the rows


def test_each_row_has_its_own_options():
    logits = torch.zeros(6, 8)
    logits[:, 5], logits[:, 6] = 4.0, 3.5
    texts = [
        state(),
        state(RowOptions(temperature=0, logit_bias={6: 1.0})),
        state(RowOptions(temperature=0, repetition_penalty=1.3), written=[5]),
        state(RowOptions(temperature=0, repetition_penalty=1.3), context=[5, 0]),
        state(RowOptions(temperature=0, logit_bias={5: -100.0, 6: -100.0, 7: 0.5})),
        state(),
    ]
    assert choose(logits, *texts) == [5, 6, 6, 6, 7, 5]
    assert choose(logits, *texts, forbidden=(5,)) == [6, 6, 6, 6, 7, 6]


def test_the_penalty_lowers_negative_logits_too():
    logits = torch.full((1, 8), -9.0)
    logits[0, 4], logits[0, 5] = -1.0, -1.1
    penal = RowOptions(temperature=0, repetition_penalty=2.0)
    assert choose(logits, state(penal)) == [4]
    assert choose(logits, state(penal, written=[4, 4])) == [5]


def test_the_end_waits_for_the_minimum():
    logits = torch.zeros(3, 8)
    logits[:, EOS], logits[:, 6] = 9.0, 1.0
    least = RowOptions(temperature=0, min_tokens=2, logit_bias={EOS: 50.0})
    rows = [state(least), state(least, written=[4]), state(least, written=[4, 4])]
    assert choose(logits, *rows) == [6, 6, EOS]


def test_greedy_rows_use_no_random_numbers():
    logits = torch.zeros(2, 8)
    greedy, free = state(seed=1), state(RowOptions(), seed=1)
    choose(logits, greedy, free)
    assert greedy.draw() == state(seed=1).draw() != free.draw()


def test_logits_that_are_no_numbers_are_told():
    logits = torch.zeros(4, 8)
    logits[0, 3], logits[1], logits[2, 3] = math.nan, -math.inf, math.inf
    for options in (NOTHING, RowOptions(), RowOptions(top_p=0.5)):
        assert choose(logits, *[state(options)] * 4)[:3] == [-1, -1, -1]
        assert choose(logits, *[state(options)] * 4)[3] >= 0


def test_processors_see_each_text_and_its_prompt():
    calls = []

    def process(lprobs, tokens, prefix):
        calls.append((tokens.tolist(), prefix.per_row(prefix.context).tolist()))
        return lprobs.index_fill(1, torch.tensor([5]), -math.inf)

    logits = torch.zeros(2, 8)
    logits[:, 5], logits[:, 6] = 4.0, 3.5
    sampled = state(RowOptions(top_k=1), context=[0, 4], written=[7])
    assert choose(logits, state(), sampled, processors=[process]) == [6, 6]
    assert calls == [([[EOS]], [[0]]), ([[EOS, 7]], [[0, 4]])]


# ---------------------------------------------------------------------- log-probabilities


def test_logprobs_come_before_temperature_and_nucleus():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 50, generator=generator)
    hot = RowOptions(temperature=3.0, top_k=2, logprobs=3)
    choices = choose_rows(logits.clone(), [state(hot), state(), state(hot, seed=1)], (7,))
    assert set(choices.logprobs) == {0, 2}
    lprobs = logits.index_fill(1, torch.tensor([7]), -math.inf).double().log_softmax(1)
    for row, found in choices.logprobs.items():
        assert found.logprob == lprobs[row, choices.tokens[row]].item()
        values, tokens = lprobs[row].topk(3)
        assert found.top == list(zip(tokens.tolist(), values.tolist()))


def test_logprobs_of_the_chosen_token_only():
    found = choose_rows(torch.zeros(1, 8), [state(RowOptions(logprobs=0))]).logprobs[0]
    assert found.top == [] and found.logprob == pytest.approx(-math.log(8))

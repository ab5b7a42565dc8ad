"""Samples in batches: their distribution, their seeds, and that batches change nothing."""

from dataclasses import replace

import pytest
import torch

from fairtale.data.corpus.tokenizer_dictionary import TokenizerDictionary
from fairtale.errors import UserError
from fairtale.generation.batch_sampling import (
    Piece,
    plan_batches,
    sample_seeds,
    uniform_draws,
)
from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session
from tests.dialog_helpers import dialog_dictionary, dialog_model, dialog_task
from tests.helpers import tiny_dictionary, tiny_model, tiny_task

POSITIONS = 24
WILD = DecodingOptions(temperature=3.0, sampling_topk=-1, max_len_b=14, seed=7)
PROMPTS = ["w1 w2 w3", "", "w9", "w4 w4 w4 w4 w4 w4 w4 w4 w4 w4 w4 w4", "w5 w6"]


@pytest.fixture
def story(tmp_path):
    dictionary = tiny_dictionary()
    task = tiny_task(dictionary, POSITIONS, data=str(tmp_path))
    return Session(task, tiny_model(dictionary, POSITIONS, seed=3))


@pytest.fixture
def dialog(tmp_path):
    dictionary = dialog_dictionary()
    task = dialog_task(dictionary, data=str(tmp_path), seed=1, tensorboard_logdir=None)
    task._options["seq2seq_prob"] = 1.0
    return Session(task, dialog_model(dictionary, seed=3))


def texts(session, prompts, num_samples, options=WILD, batch_size=32):
    """Return the texts of each prompt, by the number of the sample."""
    found = [[None] * num_samples for _ in prompts]
    for sample in session.sample(prompts, num_samples, options, batch_size):
        assert found[sample.request][sample.number] is None
        found[sample.request][sample.number] = sample.text
    assert all(text is not None for row in found for text in row)
    return found


# ------------------------------------------------------------------------------ what is drawn


def test_draws_are_uniform_and_their_own():
    draws = uniform_draws([1, 2, 1], 1000)
    assert draws.shape == (3, 1000) and draws.dtype == torch.float64
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.03
    assert torch.equal(uniform_draws([2], 10)[0], draws[1, :10])


def test_seeds_depend_on_seed_text_and_number_only():
    seeds = sample_seeds(["a", "b", "a"], 3, seed=1)
    assert len({seed for row in seeds for seed in row}) == 9  # also of the repeated text
    assert sample_seeds(["b"], 1, seed=1)[0] == seeds[1][:1]
    assert sample_seeds(["x", "a"], 3, seed=1)[1] == seeds[0]
    assert sample_seeds(["b"], 3, seed=2)[0] != seeds[1]
    assert sample_seeds([["a", "b"]], 1, 1) != sample_seeds(["a b"], 1, 1)


def test_batches():
    assert plan_batches([5, 1, 3], 2, 4) == [[Piece(1, 0, 2), Piece(2, 0, 2)], [Piece(0, 0, 2)]]
    assert plan_batches([1, 1], 5, 3) == [
        [Piece(0, 0, 3)],
        [Piece(1, 0, 3)],
        [Piece(0, 3, 2)],
        [Piece(1, 3, 2)],
    ]
    assert plan_batches([], 5, 3) == []


# -------------------------------------------------------------------- samples of a session


def test_other_prompts_and_batches_change_nothing(story):
    together = texts(story, PROMPTS, 5)
    assert len({text for row in together for text in row}) > 20  # they differ
    assert texts(story, PROMPTS, 5) == together
    for size in (1, 2, 7):
        assert texts(story, PROMPTS, 5, batch_size=size) == together
    for i, prompt in enumerate(PROMPTS):
        assert texts(story, [prompt], 5) == [together[i]]
    assert texts(story, PROMPTS[::-1], 3) == [row[:3] for row in together[::-1]]
    assert texts(story, PROMPTS, 5, replace(WILD, seed=8)) != together


def test_without_a_seed_samples_differ_each_time(story):
    unseeded = replace(WILD, seed=None)
    assert texts(story, ["w1"], 3, unseeded) != texts(story, ["w1"], 3, unseeded)


def test_greedy_samples_are_the_streamed_text(story, dialog):
    greedy = DecodingOptions(sampling_topk=1, max_len_b=12)
    found = texts(story, PROMPTS, 2, greedy)
    for prompt, row in zip(PROMPTS, found):
        assert row == [story.continue_text(prompt, greedy)] * 2
    requests = [["w1 w2 w3"], ["w1", "w2 w3", "w4"], ["w7"]]
    for request, row in zip(requests, texts(dialog, requests, 2, greedy)):
        assert row == [dialog.reply(request, greedy)] * 2


def test_options_apply_to_every_row(story):
    options = replace(WILD, min_len=10, max_len_b=10, no_repeat_ngram_size=1, block_context_ngram=1)
    for prompt, row in zip(PROMPTS[:3], texts(story, PROMPTS[:3], 6, options)):
        for text in row:
            words = text.split()
            assert len(words) == len(set(words)) == 10 and not set(words) & set(prompt.split())
            assert not {"<s>", "<pad>", "</s>"} & set(words)
    # the padding of a shorter prompt is not part of its context
    assert texts(story, [PROMPTS[0]], 6, options) == texts(story, PROMPTS[:3], 6, options)[:1]
    assert texts(story, [PROMPTS[2]], 6, options) == texts(story, PROMPTS[:3], 6, options)[2:]


def test_each_text_ends_at_the_last_position(story):
    """A batch holds prompts of several lengths, and the longest has the least room."""
    long = replace(WILD, min_len=1, max_len_b=99, sampling_topk=20)
    story.model.transformer.embed_tokens.weight.data[2] = 0  # the end is unlikely
    lengths = {}
    for sample in story.sample(PROMPTS, 8, long):
        lengths.setdefault(sample.request, []).append(sample.num_tokens)
    for i, prompt in enumerate(PROMPTS):
        assert max(lengths[i]) == POSITIONS - 1 - len(prompt.split())


def test_requests_are_checked_at_once_and_by_number(story):
    with pytest.raises(UserError, match="prompt 2: a prompt of 30 tokens leaves room for 0"):
        story.sample(["w1", "w1 " * 30], 1, WILD)
    assert list(story.sample([], 1, WILD)) == []


def test_samples_follow_the_distribution_of_the_model(story):
    """First tokens of many samples, against the model's probabilities."""
    options = DecodingOptions(sampling_topk=5, max_len_b=1, seed=3)
    count = 2000
    found = texts(story, ["w1 w2"], count, options, batch_size=500)[0]
    dictionary = story.task.dictionary
    tokens = torch.tensor([[0, dictionary.index("w1"), dictionary.index("w2")]])
    with torch.no_grad():
        logits = story.model(tokens)[0][0, -1]
    logits[[0, 1, 2]] = -torch.inf  # the first token is not the end
    values, best = logits.softmax(-1).topk(5)
    for p, token in zip(values / values.sum(), best.tolist()):
        share = sum(text.strip() == dictionary[token] for text in found) / count
        assert abs(share - p) < 4 * (p * (1 - p) / count) ** 0.5 + 1e-3


def test_the_end_is_possible_where_it_is_also_the_beginning(tmp_path):
    """GPT-2 has one symbol for both."""
    words = [f"w{i}" for i in range(6)]
    dictionary = TokenizerDictionary.with_roles([*words, "<|endoftext|>"], {"eos": 6})
    task = tiny_task(dictionary, POSITIONS, data=str(tmp_path))
    session = Session(task, tiny_model(dictionary, POSITIONS, seed=3))
    counts = [s.num_tokens for s in session.sample(["w1"], 50, replace(WILD, max_len_b=20))]
    assert min(counts) < 10
    text = "".join(session.stream("w1", replace(WILD, max_len_b=20)))
    assert "<|endoftext|>" not in text

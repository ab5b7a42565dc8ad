"""Blocking of context n-grams, and steering by words."""

import math

import pytest
import torch

from fairtale.errors import UserError
from fairtale.generation.processors import ContextNgramBlock, WordSteering, read_word_bag


class FakePrefix:
    """Return the encoder output for two sentences with two beams each."""

    context = torch.tensor([[0, 5, 6, 7, 1], [0, 8, 9, 1, 1]])

    @staticmethod
    def per_row(x):
        return x.repeat_interleave(2, 0)


def test_no_ngram_of_the_context_is_repeated():
    tokens = torch.tensor([[2, 4, 5], [2, 5, 6], [2, 8, 8], [2, 6, 8]])
    lprobs = torch.zeros(4, 12)
    blocked = ContextNgramBlock(2)(lprobs, tokens, FakePrefix).isinf()
    # rows 0 and 1 belong to the first sentence, whose bigrams are 5 6 and 6 7
    expected = {(0, 6), (1, 7), (2, 9), (3, 9)}
    assert {tuple(x) for x in blocked.nonzero().tolist()} == expected


def test_single_words_of_the_context_are_blocked_from_the_start():
    blocked = ContextNgramBlock(1)(torch.zeros(4, 12), torch.full((4, 1), 2), FakePrefix)
    assert blocked[0].isinf().nonzero().flatten().tolist() == [0, 1, 5, 6, 7]


def test_steering_multiplies_the_odds_by_the_weights_exponential():
    lprobs = torch.randn(1, 12).log_softmax(-1)
    steered = WordSteering([[5], [7, 8]], 1.5)(lprobs.clone(), torch.tensor([[2, 4]]), None)
    odds = (steered - lprobs)[0]
    raised = torch.zeros(12, dtype=torch.bool)
    raised[[5, 7]] = True  # the beginning of each word; 8 only after 7
    torch.testing.assert_close(odds - odds[0], torch.where(raised, 1.5, 0.0), atol=1e-5, rtol=1e-5)
    assert steered.exp().sum().item() == pytest.approx(1.0)


def test_a_word_that_was_begun_is_finished_and_then_left_alone():
    steer = WordSteering([[7, 8]], 9.0)

    def best(*tokens):
        uniform = torch.zeros(1, 12).log_softmax(-1)
        steered = steer(uniform.clone(), torch.tensor([[2, *tokens]]), None)
        return (steered > uniform + 1e-6).nonzero()[:, 1].tolist()

    assert best() == [7]
    assert best(7) == [7, 8]
    assert best(7, 8) == []
    assert best(8) == [7]


def test_weight_zero_changes_nothing():
    lprobs = torch.randn(3, 12).log_softmax(-1)
    steered = WordSteering([[5]], 0.0)(lprobs, torch.full((3, 1), 2), None)
    torch.testing.assert_close(steered, lprobs)
    assert not math.isnan(steered.sum())


def test_word_bags_are_read_and_checked(tmp_path, caplog):
    path = tmp_path / "words"
    path.write_text("ab\n\nc\nab\n", encoding="utf-8")

    def spell(word):
        return [ord(x) if x.isascii() else 3 for x in word]

    assert read_word_bag(str(path), spell, 3) == [[97, 98], [99]]
    path.write_text("a漢\nc\n", encoding="utf-8")
    assert read_word_bag(str(path), spell, 3) == [[99]]
    assert "left out: a漢" in caplog.text
    path.write_text("漢\n", encoding="utf-8")
    with pytest.raises(UserError, match="all of its words have unknown tokens"):
        read_word_bag(str(path), spell, 3)
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="contains no words"):
        read_word_bag(str(path), list, 3)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="--steer-words"):
        read_word_bag(str(path), list, 3)
    with pytest.raises(UserError, match="--steer-words"):
        read_word_bag(str(tmp_path / "none"), list, 3)

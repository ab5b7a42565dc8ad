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


def steered(words, weight, *tokens):
    """Return by how much steering raises the logits after some tokens, rounded: {token: gain}."""
    uniform = torch.zeros(1, 12).log_softmax(-1)
    result = WordSteering(words, weight)(uniform.clone(), torch.tensor([[2, *tokens]]), None)
    assert result.exp().sum().item() == pytest.approx(1.0)
    gains = (result - uniform)[0]
    gains = gains - gains[0]  # token 0 is in no word
    return {token: round(gain, 4) for token, gain in enumerate(gains.tolist()) if abs(gain) > 1e-4}


def test_steering_multiplies_the_odds_by_the_weights_exponential():
    assert steered([[5], [6]], 1.5) == {5: 1.5, 6: 1.5}
    assert steered([[5], [6]], 1.5, 4, 5) == {6: 1.5}  # once a word
    assert steered([[5], [6]], -1.5, 4, 5) == {6: -1.5}


def test_what_continues_a_word_is_raised_once_it_is_begun():
    first = 9.0 * WordSteering.BEGIN
    assert steered([[7, 8]], 9.0) == {7: first}
    assert steered([[7, 8]], 9.0, 7) == {8: 9.0}
    assert steered([[7, 8]], 9.0, 7, 8) == {}
    assert steered([[7, 8]], 9.0, 8) == {7: first}
    # the whole word of one token counts more
    assert steered([[7, 8], [7]], 9.0) == {7: 9.0}


def test_the_beginning_of_a_word_is_raised_once():
    """It may be a word itself: with "do g" and "do ctor", a reply was "I do do do you"."""
    words = [[7, 8], [7, 9, 10]]
    assert steered(words, 9.0, 4) == {7: 9.0 * WordSteering.BEGIN}
    assert steered(words, 9.0, 4, 7) == {8: 9.0, 9: 9.0}
    assert steered(words, 9.0, 4, 7, 5) == {}
    # written again by the model itself, it is continued again
    assert steered(words, 9.0, 4, 7, 5, 7) == {8: 9.0, 9: 9.0}
    assert steered(words, 9.0, 4, 7, 8, 7) == {9: 9.0}
    assert steered(words, 9.0, 7, 9) == {10: 9.0}


def test_no_word_is_begun_within_another():
    assert steered([[7, 8], [5]], 9.0, 7) == {8: 9.0}
    assert steered([[7, 8], [5]], 9.0, 7, 4) == {5: 9.0}


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

"""Comparison of models: plain text, batches, and the order of the models in a round."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from fairtale.pruning import comparison
from fairtale.pruning.comparison import Entrant, batches_of, plain_text_of, time_round
from tests.helpers import tiny_dictionary
from user_dir.tasks.wmt16_translation import WMT16TranslationConfig, WMT16TranslationTask


def test_the_task_makes_text_where_it_can_and_what_is_unknown_matches_nothing():
    dictionary = tiny_dictionary()
    cfg = WMT16TranslationConfig(data="nowhere", source_lang="en", target_lang="ru")
    task = WMT16TranslationTask(cfg, dictionary, dictionary)
    tokens = torch.tensor([dictionary.index("w1"), dictionary.unk(), 2])
    assert plain_text_of(task, None, None)(tokens, "UNKNOWNHYP") == "w1 UNKNOWNHYP"


def test_pieces_are_joined_for_other_tasks():
    dictionary = tiny_dictionary()
    tokens = [dictionary.add_symbol(symbol) for symbol in ("▁a", "b", "▁c")]
    task = Namespace(target_dictionary=dictionary)
    text = plain_text_of(task, "sentencepiece", None)
    assert text(torch.tensor([*tokens, dictionary.unk(), 2]), "▁X") == "ab c X"


class Lengths:
    """A data set that has only the lengths of its sentences."""

    def __init__(self, *lengths):
        self.lengths = np.array(lengths)

    def __len__(self):
        return len(self.lengths)

    def num_tokens_vec(self, indices):
        return self.lengths[indices]


def test_batches_hold_sentences_of_about_the_same_length():
    dataset = Lengths(5, 1, 4, 2, 3)
    batches, chosen = batches_of(dataset, batch_size=2, num_chosen=3, seed=1)
    assert [batch.tolist() for batch in batches] == [[1, 3], [4, 2], [0]]
    numbers = np.concatenate(chosen)
    assert len(set(numbers.tolist())) == 3 and [len(batch) for batch in chosen] == [2, 1]
    assert dataset.lengths[numbers].tolist() == sorted(dataset.lengths[numbers])
    again = batches_of(dataset, 2, 3, seed=1)[1]
    assert np.array_equal(np.concatenate(again), numbers)
    choices = {tuple(np.concatenate(batches_of(dataset, 2, 3, seed)[1])) for seed in range(9)}
    assert len(choices) > 1


def entrants(*names):
    return [Entrant(name, f"{name}.pt", None, None, {}, 0, 0, 0.0) for name in names]


def test_entrants_take_turns_and_each_begins_once(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: next(clock))
    models, order = entrants("a", "b", "c"), []
    for number in range(3):
        time_round(number, models, lambda entrant: order.append(entrant.name), torch.device("cpu"))
    assert "".join(order) == "abcbcacab"
    assert [model.seconds for model in models] == [[1, 1, 1]] * 3


def test_speed_is_the_median_and_the_ratio_is_within_rounds():
    fast, slow = entrants("fast", "slow")
    fast.seconds, slow.seconds = [1.0, 2.0, 4.0], [3.0, 4.0, 40.0]
    assert fast.speed(8) == 4.0
    assert fast.faster_than(slow) == pytest.approx(3.0)

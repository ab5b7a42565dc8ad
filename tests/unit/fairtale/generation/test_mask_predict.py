"""Mask-predict: what each pass hides, which reply is chosen, which options are refused."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from fairtale.errors import UserError
from fairtale.generation import mask_predict
from fairtale.generation.mask_predict import MaskPredictGenerator, Symbols, check_mask_predict

HIDDEN, PAD, EOS, FIRST, V = 3, 1, 2, 4, 12
SYMBOLS = Symbols(HIDDEN, PAD, EOS, FIRST, (HIDDEN, PAD, EOS, 0))


class Scripted:
    """A transformer whose features are logits: lengths of its own, and tokens of a function.

    ``predict`` gets the tokens [K, T] of a pass and the number of the pass, and returns the entry
    and the probability of each place.
    """

    training = False

    def __init__(self, lengths, predict, monkeypatch):
        self.transformer = self
        self.lengths, self.predict, self.seen = lengths, predict, []
        monkeypatch.setattr(mask_predict, "read_replies", self.read_replies)

    def eval(self):
        return self

    def logits(self, features):
        return features.clone()

    def read_prefix(self, *asked):
        features = torch.full((1, V), -torch.inf)
        features[0, [0, FIRST + 1]] = 99.0  # a word, and a length that is out of range
        for length, probability in self.lengths.items():
            features[0, FIRST + length] = torch.tensor(probability).log()
        return SimpleNamespace(features=features)

    def read_replies(self, transformer, tokens, real, segment, prefix):
        self.seen.append(tokens[0].tolist())
        rows = torch.zeros(*tokens[0].shape, V)
        for k, row in enumerate(tokens[0].tolist()):
            for t in range(len(row)):
                entry, probability = self.predict(row, t, len(self.seen))
                rows[k, t] = (
                    torch.tensor(1 - probability) / (V - 1 - len(SYMBOLS.forbidden))
                ).log()
                rows[k, t, list(SYMBOLS.forbidden)] = -torch.inf
                rows[k, t, entry] = torch.tensor(probability).log()
        return rows[real[0]]


def write(model, passes, candidates=1, lengths=(2, 6)):
    net_input = dict.fromkeys(("src_tokens", "src_lengths", "positions", "segments"))
    generator = MaskPredictGenerator(SYMBOLS, passes, candidates, lengths)
    return generator.generate([model], {"net_input": net_input})[0]


def test_each_pass_hides_the_least_certain(monkeypatch):
    certainty = [(0.9, 0.3, 0.5, 0.8), (0, 0.7, 0.6, 0.65), (0, 0, 0.95, 0.4), (0, 0, 0, 0.2)]

    def predict(row, t, number):
        return 5 + number, certainty[number - 1][t] or 0.5

    model = Scripted({4: 0.6, 5: 0.4}, predict, monkeypatch)
    (reply,) = write(model, passes=4)
    assert model.seen == [
        [[HIDDEN] * 4],
        [[6, HIDDEN, HIDDEN, HIDDEN]],  # three quarters of four tokens
        [[6, 7, HIDDEN, HIDDEN]],
        [[6, 7, 8, HIDDEN]],
    ]
    assert reply["tokens"].tolist() == [6, 7, 8, 9, EOS]
    assert reply["positional_scores"].exp().tolist() == pytest.approx([0.9, 0.7, 0.95, 0.2, 0.6])
    assert torch.equal(reply["score"], reply["positional_scores"].mean())


@pytest.mark.parametrize(("passes", "needed"), [(1, 1), (2, 2), (3, 2), (9, 5)])
def test_short_replies_need_fewer_passes(passes, needed, monkeypatch):
    """With 9 passes, 8/9, 7/9, 6/9, 5/9 of two tokens are one token, and then 8/9 none."""
    model = Scripted({2: 1.0}, lambda row, t, number: (6, 0.5), monkeypatch)
    write(model, passes)
    assert len(model.seen) == needed


def test_the_tokens_and_the_length_decide_between_replies(monkeypatch):
    def predict(row, t, number):
        length = sum(x != PAD for x in row)
        return 6, {2: 0.9, 4: 0.8, 5: 0.5}[length]

    model = Scripted({2: 0.1, 4: 0.4, 5: 0.5}, predict, monkeypatch)
    replies = write(model, passes=1, candidates=3)
    assert [len(reply["tokens"]) - 1 for reply in replies] == [4, 5, 2]
    wanted = [(0.8**4 * 0.4) ** (1 / 5), (0.5**5 * 0.5) ** (1 / 6), (0.9**2 * 0.1) ** (1 / 3)]
    assert [float(r["score"].exp()) for r in replies] == pytest.approx(wanted)
    assert len(write(model, passes=1, candidates=2)) == 2
    assert len(write(model, passes=1, candidates=9, lengths=(4, 5))) == 2  # there are no others


def test_forbidden_entries_are_not_written(monkeypatch):
    def predict(row, t, number):
        return HIDDEN, 0.9

    (reply,) = write(Scripted({2: 1.0}, predict, monkeypatch), passes=1)
    assert not set(reply["tokens"].tolist()[:-1]) & set(SYMBOLS.forbidden)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": True}, "--sampling: has no effect in non-autoregressive generation"),
        ({"no_repeat_ngram_size": 2}, "--no-repeat-ngram-size: has no effect"),
        ({"temperature": 0.5, "lenpen": 2}, "--temperature, --lenpen: has no effect"),
        ({"prefix_size": 1}, "--prefix-size"),
        ({"iter_decode_with_beam": 3}, "--iter-decode-with-beam 3: --beam is"),
        ({"iter_decode_max_iter": -1}, "--iter-decode-max-iter -1: must not be negative"),
        ({"nbest": 6}, "--nbest 6 is more than --beam 5"),
        ({"beam": 0}, "--beam 0: must be at least 1"),
    ],
)
def test_options_that_are_refused(options, message):
    check_mask_predict(Namespace(beam=5, nbest=1, iter_decode_max_iter=0))
    with pytest.raises(UserError, match=message):
        check_mask_predict(Namespace(**options))

"""Errors and warnings of `fairtale prune`."""

import argparse
import logging

import pytest
import torch

from fairtale.cli import average, plot_gates, prune, prune_report
from fairtale.errors import UserError
from fairtale.pruning import removal
from fairtale.pruning.parts import types_of
from tests.gate_helpers import gated_model, plain_model

NO_LAYERS = {"encoder": [], "decoder": []}


def options(*words):
    parser = argparse.ArgumentParser()
    prune.add_arguments(parser)
    return parser.parse_args(["model.pt", "--output", "small.pt", *map(str, words)])


def asked_of(model, args):
    """Return the budget of heads and the heads that are chosen from."""
    counts, gated = removal.head_counts(model), types_of(removal.gate_values(model))
    budget = prune.head_budget(args, gated)
    return budget, prune.asked_heads(args, budget, counts, gated, NO_LAYERS)


def chosen(model, *words):
    """Choose heads by gates as the command does, with its warnings."""
    args = options(*words)
    return prune._choose_heads(args, *asked_of(model, args), model, None)


@pytest.mark.parametrize("words", [("--heads", 3), ("--heads", 3, "--by", "gates")])
def test_a_model_without_gates_is_not_judged_by_them(words):
    with pytest.raises(UserError, match="model.pt: the model has no gates; give --by conf"):
        asked_of(plain_model(), options(*words))
    with pytest.raises(UserError, match="the model has no gates; give --by"):
        asked_of(plain_model(), options("--by", "gates"))


@pytest.mark.parametrize(
    "words, fine",
    [
        (("--threshold", 1.5), 1.0),
        (("--threshold", "nan"), 0.0),
        (("--threshold", 5, "--by", "confidence", "--data", "D"), 0.99),
    ],
)
def test_no_score_is_above_one(words, fine):
    model = gated_model(gated_attention="encoder")
    with pytest.raises(UserError, match="--threshold .*: no head would be kept, .* at most 1"):
        asked_of(model, options(*words))
    words = ("--threshold", fine, *words[2:])
    assert asked_of(model, options(*words))[1]
    # gradients are as large as they are
    asked_of(model, options("--threshold", 5, "--by", "gradient", "--data", "D"))


def test_gates_of_a_model_whose_first_layer_has_no_heads():
    model = gated_model(gated_attention="encoder", encoder_layer_heads="0,4")
    model.gates()["encoder.1"].fix([True, False, True, False])
    for words, left in (((), [0, 2]), (("--heads", 1), [0])):
        kept = chosen(model, *words)
        assert kept["encoder.0"] == [] and kept["encoder.1"] == left


def test_gates_that_let_all_heads_stay_are_told_of(caplog):
    model = gated_model(gated_attention="encoder")
    chosen(model)
    assert (
        "no head is removed: the gates are not fixed, and all 8 are open; give --heads"
        in caplog.text
    )
    caplog.clear()
    for words in (("--heads", 8), ("--threshold", 0.5), ("--ffn-keep", 0.5)):
        chosen(model, *words)
    model.gates()["encoder.0"].set_log_alpha(torch.tensor([3.0, 3.0, 3.0, -9.0]))
    chosen(model)
    for gate in model.gates().values():
        gate.fix([True] * 4)
    chosen(model)
    assert not caplog.records


def test_a_kind_of_attention_that_loses_all_heads_is_told_of(caplog):
    model = gated_model(gated_attention="encoder,cross")
    for key, gate in model.gates().items():
        gate.fix([key == "encoder.1", False, False, False])
    chosen(model)
    assert [r.getMessage()[:27] for r in caplog.records] == ["all cross heads are removed"]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("verb", [average, plot_gates, prune, prune_report])
def test_renamed_options_lead_to_options_that_there_are(verb):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    known = parser._option_string_actions
    assert verb.RENAMED_OPTIONS["--out"] == "--output"
    assert known.keys() >= set(verb.RENAMED_OPTIONS.values())
    assert not known.keys() & verb.RENAMED_OPTIONS.keys()

"""The dialog task: kinds of updates, what is predicted, how training goes on."""

from argparse import Namespace
from types import SimpleNamespace

import pytest

from fairtale.data.dialog.dataset import Echo
from fairtale.errors import UserError
from tests.criterion_helpers import smoothed_kl
from tests.dialog_helpers import (
    batch_of,
    dialog_dataset,
    dialog_dictionary,
    dialog_model,
    dialog_task,
    logits_of,
    random_lines,
    settled,
)
from tests.helpers import tiny_dictionary

LINES = random_lines(6, seed=3)


def test_the_kind_of_an_update_repeats_and_has_its_share():
    task = settled(dialog_task(), 0.25)
    kinds = [task.is_seq2seq_update(i) for i in range(4000)]
    assert kinds == [task.is_seq2seq_update(i) for i in range(4000)]
    assert sum(kinds) / 4000 == pytest.approx(0.25, abs=0.03)
    assert not any(settled(dialog_task(), 0.0).is_seq2seq_update(i) for i in range(99))
    assert all(settled(dialog_task(), 1.0).is_seq2seq_update(i) for i in range(99))


def test_a_seq2seq_update_predicts_the_response_and_a_causal_one_everything():
    dictionary = dialog_dictionary()
    task, model = settled(dialog_task(dictionary), 1.0), dialog_model(dictionary)
    criterion = smoothed_kl(task)
    optimizer = SimpleNamespace(backward=lambda loss: loss.backward())
    dataset = dialog_dataset(LINES, dictionary)
    batch = batch_of(dataset)
    for probability, count in ((1.0, batch["response_ntokens"]), (0.0, batch["ntokens"])):
        settled(task, probability)
        _, sample_size, log = task.train_step(batch, model, criterion, optimizer, 1)
        assert sample_size == log["ntokens"] == count
    model.eval()
    target = batch["target"][0]
    lprobs = logits_of(model, batch, seq2seq=True).log_softmax(-1)
    nll = -lprobs.gather(1, target.unsqueeze(1)).squeeze(1)[batch["response_mask"][0]].sum()
    settled(task, 1.0)
    log = task.valid_step(batch, model, criterion)[2]
    assert float(log["nll_loss"]) == pytest.approx(float(nll), rel=1e-5)
    assert float(log["seq2seq_nll_loss"]) == pytest.approx(float(nll), rel=1e-5)
    assert float(log["causal_nll_loss"]) != pytest.approx(float(nll), rel=1e-3)


def test_with_response_only_a_causal_update_predicts_responses():
    dictionary = dialog_dictionary()
    task = settled(dialog_task(dictionary, response_only=True), 0.0)
    model = dialog_model(dictionary, unilm=False)
    optimizer = SimpleNamespace(backward=lambda loss: loss.backward())
    batch = batch_of(dialog_dataset(LINES, dictionary))
    loss, size, log = task.train_step(batch, model, smoothed_kl(task), optimizer, 1)
    assert size == log["ntokens"] == batch["response_ntokens"]
    target, mask = batch["target"][0], batch["response_mask"][0]
    lprobs = logits_of(model, batch, seq2seq=False).log_softmax(-1)
    nll = -lprobs.gather(1, target.unsqueeze(1)).squeeze(1)[mask].sum()
    assert float(log["nll_loss"]) == pytest.approx(float(nll), rel=1e-5)


def test_echoes_are_for_training():
    """The share reaches the split of the training and no other."""
    task, asked = dialog_task(echo_query_prob=0.25), []
    task.load_dialogs = lambda *args: asked.append(args) or SimpleNamespace()
    for split in ("train", "valid", "test"):
        task.load_dataset(split)
    assert asked == [
        ("train", False, False, Echo(0.25, task.cfg.seed)),
        ("valid", False, False, None),
        ("test", False, False, None),
    ]
    task = dialog_task()
    task.load_dialogs = lambda *args: asked.append(args) or SimpleNamespace()
    task.load_dataset("train")
    assert asked[-1] == ("train", False, False, None)
    assert not task.datasets["train"].keeps_context
    task.cfg.block_context_ngram = 2
    task.load_dataset("train")
    assert task.datasets["train"].keeps_context


def test_gpt_takes_no_seq2seq_updates():
    task = dialog_task(seq2seq_prob=0.5)
    cfg = Namespace(_name="gpt", max_target_positions=None)
    with pytest.raises(UserError, match="reads the prefix causally"):
        task.build_model(cfg)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seq2seq_prob": 1.5}, "--seq2seq-prob 1.5"),
        ({"echo_query_prob": 1.5}, "--echo-query-prob 1.5: must be a probability"),
        ({"echo_query_prob": 0.1, "reverse": True}, "--echo-query-prob 0.1 with --reverse"),
        ({"max_source_positions": 2}, "--max-source-positions 2"),
        ({"max_target_positions": 1}, "--max-target-positions 1"),
        ({"max_context_turns": -1}, "--max-context-turns -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        dialog_task(**options)


def test_a_dictionary_without_marks_is_refused():
    with pytest.raises(UserError, match="lacks <CTX> or <SEP>"):
        dialog_task(tiny_dictionary())


def test_training_goes_on_as_it_began():
    began = {"seq2seq_prob": 1.0, "reverse": True, "max_context_turns": 3}
    dialog_task(seq2seq_prob=1.0, reverse=True, max_context_turns=3).check_resumed(began)
    for options, message in (
        ({"reverse": True, "max_context_turns": 3}, "--seq2seq-prob 1.0 again"),
        ({"seq2seq_prob": 1.0, "max_context_turns": 3}, "began with --reverse, and would"),
        (
            {"seq2seq_prob": 1.0, "reverse": True},
            "--max-context-turns 3, and would continue with 10",
        ),
    ):
        task = dialog_task(**options)
        if "seq2seq_prob" not in options:
            task._options["seq2seq_prob"] = 0.25  # as build_model settles it
        with pytest.raises(UserError, match=message):
            task.check_resumed(began)
    for name, value in (("response_only", True), ("echo_query_prob", 0.1)):
        dialog_task(**{name: value}).check_resumed({name: value})
        option = "--response-only" if value is True else "--echo-query-prob 0.1"
        with pytest.raises(UserError, match=f"began with {option}, and would"):
            dialog_task().check_resumed({name: value})
    # asked for by name, it may be otherwise
    dialog_task(seq2seq_prob=0.5, reverse=True, max_context_turns=0).check_resumed(began)


def test_the_models_of_an_ensemble_read_in_the_same_way():
    """In either order; fairseq loads their states one after another."""
    both, causal = ({"seq2seq_prob": p, "reverse": False} for p in (0.25, 0.0))
    reverse = {**both, "reverse": True}
    for first, second in ((both, causal), (causal, both), (both, reverse)):
        task = dialog_task()
        task.load_state_dict(first)
        task.load_state_dict(first)
        with pytest.raises(UserError, match="--path: the models of an ensemble"):
            task.load_state_dict(second)
    task = dialog_task(seq2seq_prob=0.0)  # asked for
    task.load_state_dict(both)
    task.load_state_dict(causal)

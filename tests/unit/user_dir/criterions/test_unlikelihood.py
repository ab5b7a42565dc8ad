"""The penalty on repeating oneself, against the formula written out."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.logging import metrics

from fairtale.errors import UserError
from fairtale.modules.unlikelihood import earlier_tokens, repeated_ngram_tokens, unlikelihood
from fairtale.tasks.dialog_batches import dialog_view
from tests import criterion_helpers
from tests.criterion_helpers import fields_read, smoothed_kl
from tests.dialog_helpers import (
    batch_of,
    dialog_dataset,
    dialog_dictionary,
    dialog_model,
    dialog_task,
)
from user_dir.criterions.unlikelihood import UnlikelihoodCriterion, UnlikelihoodCriterionConfig

PAD = 1


def test_candidates_are_earlier_tokens_of_the_same_text():
    target = torch.tensor([5, 6, 5, 7, 8, 8])
    owner = torch.tensor([0, 0, 0, 0, 1, 1])
    found = [sorted(set(row) - {PAD}) for row in earlier_tokens(target, owner, PAD).tolist()]
    # a token is no candidate against itself: 5 again is only penalised for 6
    assert found == [[], [5], [6], [5, 6], [], []]


def test_the_penalty_equals_the_formula_and_its_gradient():
    torch.manual_seed(0)
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[PAD, PAD], [5, PAD], [6, 6], [5, 6]])
    factor = torch.tensor([1.0, 0.5, 2.0, 1.0])
    found = unlikelihood(features, weight, negatives, PAD, factor)
    p = (features @ weight.T).float().softmax(-1)
    expected = 0.0
    for i, row in enumerate(negatives.tolist()):
        for c in set(row) - {PAD}:
            expected = expected - factor[i] * (1 - p[i, c]).log()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(found, [features, weight], retain_graph=True)
    theirs = torch.autograd.grad(expected, [features, weight])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_certain_repetition_has_a_finite_penalty():
    features = torch.tensor([[60.0]], requires_grad=True)
    weight = torch.zeros(4, 1).index_fill_(0, torch.tensor([3]), 1.0)
    value = unlikelihood(features, weight, torch.tensor([[3]]), PAD)
    assert math.isfinite(value.item()) and value.item() > 10
    value.backward()
    assert features.grad.isfinite().all()


def test_repeated_ngrams_are_marked_within_a_text_only():
    tokens = torch.tensor([4, 5, 6, 4, 5, 4, 5, 9])
    owner = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    marked = repeated_ngram_tokens(tokens, owner, 2).tolist()
    assert marked == [False, False, False, True, True, False, False, False]


make = criterion_helpers.unlikelihood


@pytest.fixture(scope="module")
def parts():
    dictionary = dialog_dictionary()
    task = dialog_task(dictionary)
    task._options["seq2seq_prob"] = 1.0
    lines = ["w1 <SEP> w2 w3 w2 w3", "w4 <SEP> w5 w5 w6"]
    batch = task.response_view(batch_of(dialog_dataset(lines, dictionary)))
    return task, dialog_model(dictionary, dropout=0.0).train(), batch


def test_alpha_weighs_the_penalty(parts):
    task, model, batch = parts
    plain = smoothed_kl(task).train()(model, batch)[0]
    off = make(task, unlikelihood_alpha=0.0).train()(model, batch)[0]
    one, _, log = make(task, unlikelihood_alpha=1.0).train()(model, batch)
    two = make(task, unlikelihood_alpha=2.0).train()(model, batch)[0]
    torch.testing.assert_close(off, plain)
    assert one > plain
    torch.testing.assert_close(two - plain, 2 * (one - plain), atol=1e-5, rtol=1e-5)
    assert float(log["unlikelihood"]) == pytest.approx(float((one - plain).detach()), rel=1e-4)


def test_of_a_causal_update_only_the_reply_is_penalised():
    """Though every token of the line is learned."""
    dictionary = dialog_dictionary()
    task = dialog_task(dictionary, seq2seq_prob=0.0)
    model = dialog_model(dictionary, unilm=False, dropout=0.0).train()
    lines = ["w1 w1 <CTX> w1 w2 <SEP> w2 w3 w2 w1", "w4 w4 <SEP> w5 w4 w6"]
    whole = batch_of(dialog_dataset(lines, dictionary))
    batch = dialog_view(whole, seq2seq=False, response_only=False, pad=PAD)
    _, size, log = make(task).train()(model, batch)
    assert size == batch["ntokens"]  # the whole lines
    reply = batch["response_mask"].flatten()
    target, owner = batch["target"].flatten()[reply], batch["sample_index"].flatten()[reply]
    features = model(**batch["net_input"], features_only=True)[0].flatten(0, 1)[reply]
    negatives = earlier_tokens(target, owner, PAD)
    expected = unlikelihood(features, model.output_weight(), negatives, PAD)
    assert float(log["unlikelihood"]) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_updates_on_own_replies_log_what_they_minimise(parts):
    task, model, batch = parts
    criterion = make(task, unlikelihood_sequence_prob=1.0, unlikelihood_ngram=1).train()
    log = criterion(model, {**batch, "update_num": 3})[2]
    with metrics.aggregate() as logged:
        UnlikelihoodCriterion.reduce_metrics([log])
    values = logged.get_smoothed_values()
    assert values["loss"] == values["sequence_unlikelihood"] > 0


def test_validation_is_not_penalised(parts):
    task, model, batch = parts
    plain = smoothed_kl(task).eval()(model, batch)[0]
    torch.testing.assert_close(make(task).eval()(model, batch)[0], plain)


def test_the_sequence_level_form_penalises_own_repetitions(parts):
    task, model, batch = parts
    criterion = make(task, unlikelihood_sequence_prob=1.0, unlikelihood_ngram=1).train()
    loss, count, log = criterion(model, {**batch, "update_num": 3})
    own = task.write_replies(model, batch, criterion.length)
    chosen = own["response_mask"]
    assert count == int(chosen.sum()) == log["sequence_tokens"]
    assert log["ntokens"] == 0  # nothing of the data was predicted
    repeated = repeated_ngram_tokens(own["target"][chosen], own["sample_index"][chosen], 1)
    assert int(log["sequence_repeated"]) == int(repeated.sum()) > 0
    assert loss > 0
    loss.backward()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unlikelihood_alpha": -1.0}, "--unlikelihood-alpha -1"),
        ({"unlikelihood_sequence_prob": 2.0}, "--unlikelihood-sequence-prob 2"),
        ({"unlikelihood_ngram": 0}, "--unlikelihood-ngram 0"),
        ({"unlikelihood_length": 1}, "--unlikelihood-length 1"),
    ],
)
def test_options_out_of_range_are_refused(parts, options, message):
    with pytest.raises(UserError, match=message):
        make(parts[0], **options)


def test_a_task_that_writes_no_replies_is_refused(parts):
    task = SimpleNamespace(target_dictionary=parts[0].dictionary)
    with pytest.raises(UserError, match="only with --task dialog_lm"):
        make(task, unlikelihood_sequence_prob=0.5)


def test_every_config_field_is_consumed(parts):
    fields, read = fields_read(UnlikelihoodCriterion, UnlikelihoodCriterionConfig, parts[0])
    assert read == fields and len(fields) == 12

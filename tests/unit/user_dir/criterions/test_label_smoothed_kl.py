"""Tests of the criterion: its numbers, its two ways to the model."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from torch import nn

from tests.criterion_helpers import NUM_SYMBOLS, PAD, close, make_sample, smoothed_kl
from user_dir.criterions import label_smoothed_kl
from user_dir.criterions.label_smoothed_kl import LabelSmoothedKLCriterion


class OfOneLayer(BaseFairseqModel):
    """A model of one embedding and one layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(NUM_SYMBOLS, 8)
        self.layer = nn.Linear(8, 8)

    def forward(self, src_tokens, src_lengths=None, features_only=False):
        features = self.layer(self.embed(src_tokens)).tanh() * 3
        return (features if features_only else F.linear(features, self.embed.weight)), None

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        assert log_probs
        return F.log_softmax(net_output[0].float(), -1)


class ShowsFeatures(OfOneLayer):
    """The model with the chunked way."""

    def output_weight(self):
        return self.embed.weight


class HidesFeatures(OfOneLayer):
    """The model for which only the ordinary way is left."""

    def forward(self, src_tokens, src_lengths=None):
        return super().forward(src_tokens)


def make_packed(sample):
    """The same samples in one row."""
    real = sample["target"] != PAD
    rows = torch.arange(real.size(0)).unsqueeze(1).expand_as(real)
    return {
        **sample,
        "net_input": {"src_tokens": sample["net_input"]["src_tokens"][real].unsqueeze(0)},
        "target": sample["target"][real].unsqueeze(0),
        "sample_index": rows[real].unsqueeze(0),
        "padded_tokens": int(real.sum()),
    }


def losses(model, sample, eps=0.0):
    """Each token's H(q, p) and nll, and the mask of real ones, by the definition: fp64 [B, T]."""
    logits = F.linear(model(**sample["net_input"], features_only=True)[0], model.embed.weight)
    lprobs = F.log_softmax(logits.double(), -1)
    q = torch.full_like(lprobs, eps / (NUM_SYMBOLS - 2))
    q[..., PAD] = 0
    q.scatter_(-1, sample["target"].unsqueeze(-1), 1 - eps)
    nll = -lprobs.gather(-1, sample["target"].unsqueeze(-1)).squeeze(-1)
    kl = F.kl_div(lprobs, q, reduction="none").sum(-1)
    return SimpleNamespace(
        cross_entropy=-(q * lprobs).sum(-1), nll=nll, kl=kl, real=sample["target"] != PAD
    )


def logged(*logs):
    with metrics.aggregate(new_root=True) as aggregator:
        LabelSmoothedKLCriterion.reduce_metrics(list(logs))
    return aggregator.get_smoothed_values()


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_mean_over_tokens(task, eps):
    model, sample = ShowsFeatures(), make_sample()
    criterion = smoothed_kl(task, label_smoothing=eps)
    loss, sample_size, log = criterion(model, sample)
    expected = losses(model, sample, eps)
    close(loss, expected.cross_entropy[expected.real].sum(), rtol=1e-6, atol=0)
    assert loss.dtype == torch.float32 and sample_size == 8
    close(log["nll_loss"], expected.nll[expected.real].sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("packed", [False, True])
def test_mean_over_samples_of_unequal_lengths(task, eps, packed):
    model, sample = ShowsFeatures(), make_sample()
    sample = make_packed(sample) if packed else sample
    criterion = smoothed_kl(task, label_smoothing=eps, loss_average="samples")
    loss, sample_size, log = criterion(model, sample)
    each = losses(model, make_sample(), eps).cross_entropy
    by_hand = sum(each[0, i] for i in range(5)) / 5 + sum(each[1, i] for i in range(3)) / 3
    close(loss, by_hand, rtol=1e-6, atol=0)
    assert int(sample_size) == 2
    # what is reported of nll does not follow the average
    tokens = smoothed_kl(task, label_smoothing=eps)(model, sample)[2]
    assert torch.equal(log["nll_loss"], tokens["nll_loss"]) and log["ntokens"] == 8


@pytest.mark.parametrize("average", ["tokens", "samples"])
def test_kl_is_cross_entropy_less_entropy(task, average):
    model, sample = ShowsFeatures(), make_sample()
    expected = losses(model, sample, 0.1)
    weights = expected.real.double()
    if average == "samples":
        weights = weights / weights.sum(1, keepdim=True)
    options = dict(label_smoothing=0.1, loss_average=average)
    criterion = smoothed_kl(task, use_kl=True, report_kl=True, **options)
    loss, sample_size, log = criterion(model, sample)
    close(loss, (expected.kl * weights).sum(), rtol=1e-5, atol=0)
    close(log["kl"], expected.kl[expected.real].sum(), rtol=1e-5, atol=0)
    plain = smoothed_kl(task, **options)(model, sample)[0]
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(plain, parameters)
    )


def test_kl_is_zero_at_the_optimum(task):
    """A model whose logits are log q."""
    eps, elsewhere = 0.2, 0.2 / (NUM_SYMBOLS - 2)
    weight = torch.full((NUM_SYMBOLS, NUM_SYMBOLS), math.log(elsewhere))
    weight.fill_diagonal_(math.log(1 - eps))
    weight[PAD] = -1e4

    class Optimum(ShowsFeatures):
        def forward(self, src_tokens, features_only):
            return F.one_hot(src_tokens, NUM_SYMBOLS).float(), None

        def output_weight(self):
            return weight

    sample = make_sample()
    sample["net_input"] = {"src_tokens": sample["target"]}
    criterion = smoothed_kl(task, label_smoothing=eps, use_kl=True, report_kl=True)
    loss, _, log = criterion(Optimum(), sample)
    close(loss, 0.0, rtol=0, atol=1e-5)
    close(log["kl"], 0.0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("average", ["tokens", "samples"])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("use_kl", [False, True])
def test_chunked_and_ordinary_way_agree(task, average, eps, use_kl):
    shows, hides = ShowsFeatures(), HidesFeatures()
    assert hasattr(shows, "output_weight") and not hasattr(hides, "output_weight")
    criterion = smoothed_kl(
        task,
        label_smoothing=eps,
        use_kl=use_kl,
        report_accuracy=True,
        report_kl=True,
        loss_average=average,
    )
    sample = make_sample()
    results = []
    for model in (shows, hides):
        loss, sample_size, log = criterion(model, sample)
        (loss / sample_size).backward()
        results.append((log, [p.grad for p in model.parameters()]))
    (log, grads), (other_log, other_grads) = results
    assert log.keys() == other_log.keys()
    for key in log:
        close(log[key], other_log[key], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grads, other_grads, rtol=1e-5, atol=1e-6)


def test_ordinary_way_is_told_once(task, caplog):
    criterion = smoothed_kl(task)
    with caplog.at_level("INFO", logger=label_smoothed_kl.__name__):
        criterion(HidesFeatures(), make_sample())
        criterion(HidesFeatures(), make_sample())
        criterion(ShowsFeatures(), make_sample())
    assert len([r for r in caplog.records if "output_weight" in r.message]) == 1


@pytest.mark.parametrize("average", ["tokens", "samples"])
@pytest.mark.parametrize("model_class", [ShowsFeatures, HidesFeatures])
def test_padding_changes_nothing(task, average, model_class):
    model = model_class()
    criterion = smoothed_kl(task, label_smoothing=0.1, loss_average=average)
    loss, sample_size, _ = criterion(model, make_sample())
    more = make_sample(width=9)
    more["net_input"]["src_tokens"] = F.pad(
        make_sample()["net_input"]["src_tokens"], (0, 4), value=1
    )
    more["target"] = torch.cat([more["target"], torch.full((1, 9), PAD)])  # a row of padding only
    more["net_input"]["src_tokens"] = F.pad(more["net_input"]["src_tokens"], (0, 0, 0, 1), value=1)
    other, other_size, _ = criterion(model, more)
    close(loss, other, rtol=1e-6, atol=0)
    assert int(sample_size) == int(other_size)


def test_packed_equals_padded(task):
    criterion = smoothed_kl(task, report_accuracy=True)
    model, sample = ShowsFeatures(), make_sample()
    log, packed_log = (criterion(model, s)[2] for s in (sample, make_packed(sample)))
    for key in ("loss", "nll_loss", "n_correct", "ntokens"):
        close(log[key], packed_log[key], rtol=1e-6, atol=0)
    assert logged(log)["fullness"] == 80.0 and logged(packed_log)["fullness"] == 100.0


@pytest.mark.parametrize("average", ["tokens", "samples"])
def test_loss_mask(task, average):
    model, sample = ShowsFeatures(), make_sample()
    sample["loss_mask"] = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
    loss, sample_size, log = smoothed_kl(task, loss_average=average)(model, sample)
    nll = losses(model, sample).nll[0, 2:].sum()
    # the second row has nothing in the loss: it is no sample
    close(loss, nll / 3 if average == "samples" else nll, rtol=1e-6, atol=0)
    assert int(sample_size) == (1 if average == "samples" else 3)
    assert log["ntokens"] == 3


@pytest.mark.parametrize("average", ["tokens", "samples"])
def test_batch_without_loss(task, average):
    model, sample = ShowsFeatures(), make_sample()
    sample["loss_mask"] = torch.zeros_like(sample["target"], dtype=torch.bool)
    criterion = smoothed_kl(task, label_smoothing=0.1, use_kl=True, loss_average=average)
    loss, sample_size, log = criterion(model, sample)
    loss *= 0  # as fairseq does for dummy batches
    loss.backward()
    assert loss.item() == int(sample_size) == log["ntokens"] == 0
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert "loss" not in logged(log)
    other = criterion(model, make_sample())[2]
    assert logged(other, log)["nll_loss"] == logged(other)["nll_loss"]


@pytest.mark.parametrize("average", ["tokens", "samples"])
def test_logged_numbers(task, average):
    """The loss follows the average; everything else is per token."""
    model, sample = ShowsFeatures(), make_sample()
    criterion = smoothed_kl(
        task, label_smoothing=0.1, report_accuracy=True, report_kl=True, loss_average=average
    )
    values = logged(criterion(model, sample)[2])
    expected = losses(model, sample, 0.1)
    bits = 1 / math.log(2)

    def mean(x):
        return x[expected.real].mean().item()

    loss = mean(expected.cross_entropy)
    if average == "samples":
        loss = (expected.cross_entropy[0].mean() + expected.cross_entropy[1, :3].mean()).item() / 2
    assert values["loss"] == pytest.approx(loss * bits, abs=6e-4)
    assert values["nll_loss"] == pytest.approx(mean(expected.nll) * bits, abs=6e-4)
    assert values["ppl"] == pytest.approx(math.exp(mean(expected.nll)), abs=6e-3)
    assert values["kl"] == pytest.approx(mean(expected.kl) * bits, abs=6e-4)
    assert values["bpb"] == pytest.approx(mean(expected.nll) * 8 * bits / 21, abs=6e-5)
    bits_of_a_word = mean(expected.nll) * 8 * bits / 3
    assert values["nll_word"] == pytest.approx(bits_of_a_word, abs=6e-4)
    assert values["ppl_word"] == pytest.approx(2**bits_of_a_word, rel=1e-3)
    assert values["fullness"] == 80.0
    logits = F.linear(model(**sample["net_input"], features_only=True)[0], model.embed.weight)
    hits = logits.argmax(-1) == sample["target"]
    assert values["accuracy"] == pytest.approx(100 * mean(hits.double()), abs=6e-4)


def test_only_what_is_asked_and_known_is_logged(task):
    sample = make_sample()
    del sample["nbytes"], sample["nwords"], sample["padded_tokens"]
    values = logged(smoothed_kl(task)(ShowsFeatures(), sample)[2])
    assert set(values) == {"loss", "nll_loss", "ppl"}


@pytest.mark.parametrize("average", ["tokens", "samples"])
def test_two_workers_equal_one(task, average):
    """The sums of two workers' logs, added as fairseq adds them, give one worker's numbers."""
    model = ShowsFeatures()
    criterion = smoothed_kl(
        task, label_smoothing=0.1, report_accuracy=True, report_kl=True, loss_average=average
    )
    assert criterion.logging_outputs_can_be_summed()
    rows = ((4, 5, 6, 7, 2), (8, 9, 2), (10, 2), (5, 5, 5, 2))
    whole = criterion(model, make_sample(rows))[2]
    whole["nbytes"], whole["nwords"] = 42, 6
    halves = [criterion(model, make_sample(part))[2] for part in (rows[:2], rows[2:])]
    summed = {key: sum(half[key] for half in halves) for key in halves[0]}
    expected = pytest.approx(logged(whole), abs=1e-9)
    assert logged(summed) == expected
    assert logged(*halves) == expected


def test_wrapped_model_is_called_through_its_wrapper(task):
    """Data parallel hooks fire in the wrapper's forward; the weight comes from inside."""
    calls = []

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.module, name)

        def forward(self, **kwargs):
            calls.append(kwargs)
            return self.module(**kwargs)

    model, sample = ShowsFeatures(), make_sample()
    criterion = smoothed_kl(task)
    loss = criterion(Wrapper(Wrapper(model)), sample)[0]
    assert [call["features_only"] for call in calls] == [True, True]
    assert torch.equal(loss, criterion(model, sample)[0])


def test_chunk_option_reaches_the_loss(task, monkeypatch):
    seen = {}
    chunked = label_smoothed_kl.chunked_cross_entropy

    def spy(*args, **kwargs):
        seen.update(kwargs)
        return chunked(*args, **kwargs)

    monkeypatch.setattr(label_smoothed_kl, "chunked_cross_entropy", spy)
    smoothed_kl(task, loss_chunk_mib=3)(ShowsFeatures(), make_sample())
    assert seen["chunk_mib"] == 3 and seen["padding_idx"] == PAD


def test_single_losses_are_refused(task):
    with pytest.raises(ValueError, match="reduce=False"):
        smoothed_kl(task)(ShowsFeatures(), make_sample(), reduce=False)

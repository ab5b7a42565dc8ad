"""Criterions with ``gpt`` and a dictionary whose last entries (padding) are not predicted."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fairtale.data.corpus.tokenizer_dictionary import TokenizerDictionary
from tests.criterion_helpers import close, smoothed_kl, unlikelihood
from tests.helpers import tiny_model

PREDICTED = 9
DICTIONARY = TokenizerDictionary.with_roles([f"w{i}" for i in range(PREDICTED)], {"eos": 8})
PAD = DICTIONARY.pad()
TASK = SimpleNamespace(target_dictionary=DICTIONARY)


def batch():
    target = torch.tensor([[4, 5, 4, 7, 8], [3, 3, 8, PAD, PAD]])
    source = torch.tensor([[8, 4, 5, 4, 7], [8, 3, 3, PAD, PAD]])
    return {
        "net_input": {"src_tokens": source, "src_lengths": None},
        "target": target,
        "ntokens": 8,
        "nsentences": 2,
    }


@pytest.mark.parametrize("untied_output", [False, True])
def test_smoothing_covers_the_predicted_entries(untied_output):
    model = tiny_model(DICTIONARY, num_predicted=PREDICTED, untied_output=untied_output)
    eps = 0.2
    criterion = smoothed_kl(TASK, label_smoothing=eps, use_kl=True, report_kl=True)
    loss, sample_size, log = criterion(model, batch())
    target = batch()["target"]
    real = target != PAD
    lprobs = model(**batch()["net_input"])[0].double().log_softmax(-1)[real][:, :PREDICTED]
    q = torch.full_like(lprobs, eps / (PREDICTED - 1)).scatter(1, target[real][:, None], 1 - eps)
    close(loss, F.kl_div(lprobs, q, reduction="sum"), rtol=1e-5, atol=1e-6)
    close(log["nll_loss"], -lprobs.gather(1, target[real][:, None]).sum(), rtol=1e-5, atol=1e-6)
    assert sample_size == 8
    # gradients are those of the whole table of probabilities
    loss.backward()
    other = copy.deepcopy(model)
    other.zero_grad()
    lprobs = other(**batch()["net_input"])[0].log_softmax(-1)[real][:, :PREDICTED]
    F.kl_div(lprobs, q.float(), reduction="sum").backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_unlikelihood_of_earlier_tokens():
    model = tiny_model(DICTIONARY, num_predicted=PREDICTED).train()
    plain, _, _ = unlikelihood(TASK, unlikelihood_alpha=0.0)(model, batch())
    loss, _, _ = unlikelihood(TASK, unlikelihood_alpha=1.0).train()(model, batch())
    p = model(**batch()["net_input"])[0].double().softmax(-1)
    # (row, place, earlier tokens that are not the target)
    candidates = [(0, 1, [4]), (0, 2, [5]), (0, 3, [4, 5]), (0, 4, [4, 5, 7]), (1, 2, [3])]
    penalty = -sum((1 - p[row, place, c]).log().sum() for row, place, c in candidates)
    close(loss - plain, penalty, rtol=1e-4, atol=1e-5)

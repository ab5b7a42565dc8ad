"""Targets are the hidden tokens of replies, and at ``<SEP>`` the length; there are no others."""

import torch

from fairtale.data.corpus.sized_dataset import no_batch
from fairtale.data.dialog.line_format import RESPONSE
from fairtale.data.dialog.masking import FIRST_LENGTH, hide_replies
from tests.dialog_helpers import batch_of, dialog_dataset, dialog_dictionary, random_lines

WORDS = dialog_dictionary()
PAD, UNK = WORDS.pad(), WORDS.unk()


def test_what_is_hidden_is_the_target():
    batch = batch_of(dialog_dataset(random_lines(40)))
    net_input = batch["net_input"]
    whole, reply = net_input["src_tokens"].clone(), net_input["segments"] == RESPONSE
    torch.manual_seed(1)
    shown = hide_replies(batch, UNK, PAD)
    tokens, target = shown["net_input"]["src_tokens"], shown["target"]
    hides = tokens == UNK
    assert not (hides & ~reply).any() and 0.3 < hides.sum() / reply.sum() < 0.7
    assert torch.equal(tokens[~hides], whole[~hides]) and torch.equal(target[hides], whole[hides])
    # the other targets are lengths, at the last token of each prefix
    place = (target.ne(PAD) & ~hides)[0].nonzero().squeeze(1)
    assert (whole[0, place] == WORDS.index("<SEP>")).all()
    assert torch.equal(target[0, place], FIRST_LENGTH + net_input["sides"]["response_lengths"])
    assert torch.equal(net_input["src_tokens"], whole) and "nbytes" in batch  # not changed


def test_every_number_of_hidden_tokens_is_equally_likely():
    batch = batch_of(dialog_dataset(["w1 <SEP> w2 w3 w4"] * 4000))
    torch.manual_seed(1)
    target = hide_replies(batch, UNK, PAD)["target"].view(4000, -1)  # <s> w1 <SEP> w2 w3 w4
    count = target[:, 3:].ne(PAD).sum(1).bincount()
    assert len(count) == 4 and (count - 1000).abs().max() < 120
    assert (target[:, 3:].ne(PAD).sum(0) - 2000).abs().max() < 150


def test_a_batch_of_a_worker_without_data_stays_empty():
    assert hide_replies(no_batch(), UNK, PAD) == no_batch()

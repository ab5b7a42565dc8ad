"""Packed batches of dialogs: the predicted tokens, and the conversion to prefixes."""

import torch

from fairtale.data.dialog.line_format import CTX, SEP
from fairtale.tasks.dialog_batches import (
    dialog_view,
    find_queries,
    split_prefixes,
    unpack_dialogs,
)
from tests.dialog_helpers import batch_of, dialog_dataset, dialog_dictionary, encode, random_lines

LINES = random_lines(5, seed=1)
DICTIONARY = dialog_dictionary()
PAD = DICTIONARY.pad()


def packed():
    return batch_of(dialog_dataset(LINES, DICTIONARY))


def test_a_view_leaves_its_batch_alone():
    batch = packed()
    target = batch["target"].clone()
    view = dialog_view(batch, seq2seq=True, response_only=True, pad=PAD)
    assert view["net_input"]["seq2seq"] and "seq2seq" not in batch["net_input"]
    assert torch.equal(batch["target"], target)
    assert torch.equal(view["target"].ne(PAD), batch["response_mask"])
    assert (view["ntokens"], view["nbytes"]) == (
        batch["response_ntokens"],
        batch["response_nbytes"],
    )
    whole = dialog_view(batch, seq2seq=False, response_only=False, pad=PAD)
    assert torch.equal(whole["target"], target) and whole["ntokens"] == batch["ntokens"]


def test_an_empty_batch_is_its_own_view():
    assert dialog_view({}, seq2seq=True, response_only=True, pad=PAD) == {}


def test_unpacked_dialogs_are_the_lines_they_were_made_of():
    batch = packed()
    unpacked = unpack_dialogs(batch, PAD)
    assert "sides" in batch["net_input"] and "sides" not in unpacked["net_input"]
    prefixes = split_prefixes(unpacked["net_input"])
    for line, prefix, reference in zip(LINES, prefixes, unpacked["target"], strict=True):
        whole = torch.cat([prefix, reference[reference != PAD]])
        assert whole.tolist() == encode(DICTIONARY, line).tolist()
    assert unpacked["net_input"]["positions"].shape == unpacked["net_input"]["src_tokens"].shape


def test_queries_are_the_last_turns_of_the_prefixes():
    net_input = unpack_dialogs(packed(), PAD)["net_input"]
    queries = find_queries(net_input, DICTIONARY, DICTIONARY.index(SEP))
    for line, query in zip(LINES, queries, strict=True):
        expected = line.split(SEP)[0].split(CTX)[-1]
        assert query.tolist() == encode(DICTIONARY, expected)[:-1].tolist()

"""Reading replies in both directions: packed in training, beside a cached prefix in decoding."""

import pytest
import torch

from fairtale.data.dialog.line_format import RESPONSE
from fairtale.modules.masked_replies import masked_rows, read_replies
from fairtale.tasks.dialog_batches import unpack_dialogs
from tests.dialog_helpers import batch_of, dialog_dataset, dialog_model, random_lines

MODEL = dialog_model().transformer
LINES = random_lines(7, seed=2)


def packed_features(net_input):
    sides = net_input["sides"]
    rows = masked_rows(sides["prefix_lengths"], sides["response_lengths"], *sides["longest"])
    names = ("src_tokens", "positions", "segments")
    with torch.no_grad():
        return MODEL(*(net_input[name] for name in names), rows)[0]


def read(batch, candidates):
    """The features of the replies beside their prefixes, of each of some equal candidates."""
    net_input, lengths = batch["net_input"], batch["net_input"]["sides"]["response_lengths"]
    asked = unpack_dialogs(batch, pad=1)
    names = ("src_tokens", "src_lengths", "positions", "segments")
    prefix = MODEL.read_prefix(*(asked["net_input"][name] for name in names), bidirectional=True)
    real = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    tokens = torch.ones(real.shape, dtype=torch.long)
    tokens[real] = net_input["src_tokens"][net_input["segments"] == RESPONSE]
    tokens, real = (x.unsqueeze(1).repeat(1, candidates, 1) for x in (tokens, real))
    # other candidates must not matter
    tokens[:, 1:] = torch.where(real[:, 1:], 5, tokens[:, 1:])
    with torch.no_grad():
        features = read_replies(MODEL, tokens, real, RESPONSE, prefix)
    first = torch.zeros_like(real)
    first[:, 0] = real[:, 0]
    return features[first[real]], prefix.features


@pytest.mark.parametrize("candidates", [1, 3])
def test_decoding_reads_as_training_does(candidates):
    batch = batch_of(dialog_dataset(LINES))
    net_input = batch["net_input"]
    features = packed_features(net_input)
    replies, ends = read(batch, candidates)
    assert torch.allclose(replies, features[net_input["segments"][0] == RESPONSE], atol=1e-5)
    sides = net_input["sides"]
    total = sides["prefix_lengths"] + sides["response_lengths"]
    last = total.cumsum(0) - sides["response_lengths"] - 1
    assert torch.allclose(ends, features[last], atol=1e-5)


def test_who_sees_a_token_of_a_reply():
    """The whole reply does, in both directions, and neither its prefix nor another dialog."""
    net_input = batch_of(dialog_dataset(["w1 <SEP> w2 w3 w4", "w5 w6 <SEP> w7"]))["net_input"]
    before = packed_features(net_input)
    tokens = net_input["src_tokens"].clone()
    place = int((tokens[0] == 4 + 3).nonzero())  # w3
    tokens[0, place] = 4 + 9
    changed = (packed_features({**net_input, "src_tokens": tokens}) - before).abs().amax(1) > 1e-4
    assert changed.nonzero().squeeze(1).tolist() == [place - 1, place, place + 1]

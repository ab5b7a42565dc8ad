"""Batches of dialogs as training packs them, and as decoding reads them."""

from typing import cast

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..data.dialog.cutting import DialogLimits
from ..data.dialog.dataset import DialogPrefixDataset
from ..data.dialog.line_format import QUERY, RESPONSE
from ..interfaces import DialogBatch, PrefixInput, RowInput


def dialog_view(sample: DialogBatch, seq2seq: bool, response_only: bool, pad: int) -> DialogBatch:
    """Return a view of a packed batch: how its prefixes are read, and what counts.

    What does not count is padding in the targets, which every criterion leaves out: a prefix that
    is read in both directions would show its own targets.

    Args:
        sample: packed; an empty one, of a worker that has no more data, is returned as it is.
        seq2seq: read the prefixes in both directions.
        response_only: predict nothing but the responses.
        pad: the padding of targets.
    """
    if "response_mask" not in sample:
        return sample
    net_input = cast(RowInput, {**sample["net_input"], "seq2seq": seq2seq})
    view = cast(DialogBatch, {**sample, "net_input": net_input})
    if response_only:
        assert sample["target"] is not None
        view["target"] = sample["target"].masked_fill(~sample["response_mask"], pad)
        view["ntokens"] = sample["response_ntokens"]
        view["nbytes"] = sample["response_nbytes"]
    return view


def unpack_dialogs(sample: DialogBatch, pad: int) -> DialogBatch:
    """Return a packed batch of M dialogs as padded prefixes [M, S] and references [M, T]."""
    packed, targets = sample["net_input"], sample["target"]
    assert targets is not None
    sides = packed["sides"]
    prefix, response = sides["prefix_lengths"], sides["response_lengths"]
    total = prefix + response
    starts = (total.cumsum(0) - total).unsqueeze(1)
    net_input: PrefixInput = {
        "src_tokens": _rows(packed["src_tokens"], starts, prefix, pad),
        "src_lengths": prefix,
        "positions": _rows(packed["positions"], starts, prefix, 0),
        "segments": _rows(packed["segments"], starts, prefix, 0),
    }
    # a response of n inputs has n + 1 targets; the first is predicted by <SEP>
    first = starts + prefix.unsqueeze(1) - 1
    target = _rows(targets, first, response + 1, pad)
    return cast(DialogBatch, {**sample, "net_input": net_input, "target": target})


def _rows(packed: Tensor, first: Tensor, lengths: Tensor, fill: int) -> Tensor:
    """Return M pieces of a packed row [1, N] as rows [M, longest], padded at the right.

    Args:
        first: where each piece begins, int64 [M, 1].
        lengths: int64 [M].
    """
    place = torch.arange(int(lengths.max()), device=lengths.device)
    index = (first + place).clamp(max=packed.size(1) - 1)
    return packed[0][index].masked_fill(place >= lengths.unsqueeze(1), fill)


def split_prefixes(net_input: PrefixInput) -> list[Tensor]:
    """Return padded prefixes one by one, without their begin mark, on the CPU."""
    tokens, lengths = net_input["src_tokens"].cpu(), net_input["src_lengths"].tolist()
    return [row[1:n] for row, n in zip(tokens, lengths)]


def describe_prefixes(
    net_input: PrefixInput, dictionary: Dictionary, ctx: int, limits: DialogLimits
) -> PrefixInput:
    """Add segments and positions to padded prefixes, which ``fairseq-interactive`` drops."""
    prefixes = [prefix.numpy() for prefix in split_prefixes(net_input)]
    dataset = DialogPrefixDataset(prefixes, dictionary, ctx, limits)
    described = dataset.collater([dataset[i] for i in range(len(dataset))])["net_input"]
    device = net_input["src_tokens"].device
    return {
        **net_input,
        "positions": described["positions"].to(device),
        "segments": described["segments"].to(device),
    }


def begin_replies(net_input: PrefixInput, bidirectional: bool) -> PrefixInput:
    """Add to prefixes where replies begin, and how the prefix is read."""
    rows = net_input["src_lengths"]
    return {
        **net_input,
        "next_positions": torch.zeros_like(rows),
        "next_segments": torch.full_like(rows, RESPONSE),
        "bidirectional": bidirectional,
    }


def find_queries(net_input: PrefixInput, dictionary: Dictionary, sep: int) -> list[Tensor]:
    """Return the query of each prefix, without marks."""
    queries = []
    for row, segments in zip(net_input["src_tokens"], net_input["segments"]):
        turn = row[segments == QUERY]
        queries.append(turn[(turn != sep) & (turn != dictionary.bos())])
    return queries

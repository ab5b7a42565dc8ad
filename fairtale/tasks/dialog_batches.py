"""Convert batches of dialogs between their packed form for training and prefixes for decoding."""

from typing import cast

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..data.dialog.dataset import DialogPrefixDataset
from ..data.dialog.line_format import QUERY, RESPONSE
from ..interfaces import DialogBatch, PrefixInput, RowInput


def dialog_view(sample: DialogBatch, seq2seq: bool, response_only: bool, pad: int) -> DialogBatch:
    """Return a view of a packed batch with the given attention and targets.

    With ``response_only``, the targets of prefixes are replaced by padding, which every criterion
    leaves out. This is needed with ``seq2seq``, because prefix tokens then attend to their own
    targets.

    Args:
        sample: packed batch. An empty batch, which fairseq gives to a worker without data, is
            returned unchanged.
        seq2seq: read the prefixes in both directions.
        response_only: predict only the responses.
        pad: padding token.
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
    """Convert a packed batch of M dialogs to padded prefixes [M, S] and references [M, T]."""
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
    # a response with n input tokens has n + 1 targets; the first is predicted from <SEP>
    first = starts + prefix.unsqueeze(1) - 1
    target = _rows(targets, first, response + 1, pad)
    if "context_tokens" in sample:
        net_input["context_tokens"] = sample["context_tokens"]
    return cast(DialogBatch, {**sample, "net_input": net_input, "target": target})


def _rows(packed: Tensor, first: Tensor, lengths: Tensor, fill: int) -> Tensor:
    """Copy M slices of a packed row [1, N] into rows [M, longest], padded at the right.

    Args:
        packed: the packed row [1, N].
        first: index of the first token of each slice, int64 [M, 1].
        lengths: length of each slice, int64 [M].
        fill: value of the padding.
    """
    place = torch.arange(int(lengths.max()), device=lengths.device)
    index = (first + place).clamp(max=packed.size(1) - 1)
    return packed[0][index].masked_fill(place >= lengths.unsqueeze(1), fill)


def split_prefixes(net_input: PrefixInput) -> list[Tensor]:
    """Return a list of the prefixes without padding and without BOS token, on the CPU."""
    tokens, lengths = net_input["src_tokens"].cpu(), net_input["src_lengths"].tolist()
    return [row[1:n] for row, n in zip(tokens, lengths)]


def describe_prefixes(net_input: PrefixInput, asked: DialogPrefixDataset) -> PrefixInput:
    """Restore what ``fairseq-interactive`` drops of the last batch of a dataset of prefixes."""
    described = asked.collater([asked[i] for i in asked.collated])["net_input"]
    device = net_input["src_tokens"].device
    assert described["src_tokens"].shape == net_input["src_tokens"].shape
    moved = {name: value.to(device) for name, value in described.items()}
    return cast(PrefixInput, {**moved, **net_input})


def begin_replies(net_input: PrefixInput, bidirectional: bool) -> PrefixInput:
    """Add the position and segment of the first reply token, and the direction of attention."""
    rows = net_input["src_lengths"]
    return {
        **net_input,
        "next_positions": torch.zeros_like(rows),
        "next_segments": torch.full_like(rows, RESPONSE),
        "bidirectional": bidirectional,
    }


def find_queries(net_input: PrefixInput, dictionary: Dictionary, sep: int) -> list[Tensor]:
    """Return the query of each prefix, without special tokens."""
    queries = []
    for row, segments in zip(net_input["src_tokens"], net_input["segments"]):
        turn = row[segments == QUERY]
        queries.append(turn[(turn != sep) & (turn != dictionary.bos())])
    return queries

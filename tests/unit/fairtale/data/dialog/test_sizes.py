"""Dialogs are measured in blocks; line by line they have the same lengths."""

import numpy as np
import pytest
import torch
from fairseq.data import ConcatDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder

from fairtale.data.dialog import sizes as dialog_sizes
from fairtale.data.dialog.cutting import DialogLimits
from fairtale.data.dialog.dataset import DialogDataset
from fairtale.data.dialog.line_format import CTX, SEP
from tests.dialog_helpers import dialog_dictionary
from tests.unit.fairtale.data.dialog.test_cutting import cut_plainly

DICTIONARY = dialog_dictionary()
CTX_ID, SEP_ID, END = DICTIONARY.index(CTX), DICTIONARY.index(SEP), DICTIONARY.eos()
LIMITS = [DialogLimits(10, 14, 6), DialogLimits(2, 9, 4), DialogLimits(0, 3, 2)]


def random_lines(count, seed):
    """Intact and damaged dialogs: marks anywhere, empty sides, no end, no token."""
    rng = np.random.default_rng(seed)

    def words(least):
        return rng.integers(4, 20, rng.integers(least, 7)).tolist()

    lines = []
    for _ in range(count):
        kind = rng.integers(0, 10)
        if kind == 0:  # anything at all
            lines.append(rng.choice([5, 6, CTX_ID, SEP_ID, END], rng.integers(0, 9)).tolist())
            continue
        least = 0 if kind == 1 else 1
        line = []
        for _ in range(rng.integers(0, 5)):
            line += [*words(least), CTX_ID]
        line += [*words(least), *([SEP_ID] * int(rng.choice([0, 1, 2])) if kind == 2 else [SEP_ID])]
        line += [*words(least), *([CTX_ID, *words(0)] if kind == 3 else []), END]
        lines.append(line)
    return lines


def one_by_one(lines, limits, reverse):
    """A plain implementation: ``(prefix sizes, response sizes, faults, cut)``."""
    prefix_sizes, response_sizes, num_cut = [], [], 0
    faults = {"without <SEP>": 0, "with several <SEP>": 0, "with an empty side": 0}
    for line in map(np.array, lines):
        prefix_sizes.append(0)
        response_sizes.append(0)
        marks = np.flatnonzero(line == SEP_ID)
        if len(marks) != 1:
            faults["with several <SEP>" if len(marks) else "without <SEP>"] += 1
            continue
        prefix, response = line[: marks[0] + 1], line[marks[0] + 1 :]
        if reverse:
            turns = np.flatnonzero(prefix == CTX_ID)
            query = prefix[turns[-1] + 1 if len(turns) else 0 : -1]
            prefix, response = np.append(response[:-1], SEP_ID), np.append(query, response[-1:])
        if len(prefix) < 2 or len(response) < 2 or prefix[-2] == CTX_ID:
            faults["with an empty side"] += 1
            continue
        kept = len(cut_plainly(prefix, CTX_ID, limits))
        kept_response = min(len(response), limits.max_target_positions)
        num_cut += kept < len(prefix) or kept_response < len(response)
        prefix_sizes[-1], response_sizes[-1] = kept + 1, kept_response
    return prefix_sizes, response_sizes, faults, num_cut


def mapped(path, lines, dtype=np.uint16):
    builder = MMapIndexedDatasetBuilder(f"{path}.bin", dtype=dtype)
    for line in lines:
        builder.add_item(torch.tensor(line))
    builder.finalize(f"{path}.idx")
    return MMapIndexedDataset(str(path))


def stored(kind, lines, folder):
    """The lines as fairseq's datasets hold them."""
    if kind == "tensors":
        return [torch.tensor(line, dtype=torch.int64) for line in lines]
    if kind == "mapped":
        return mapped(folder / "a", lines)
    if kind == "concatenated":  # two folders, one of them of two files
        a = mapped(folder / "a", lines[:100])
        b = mapped(folder / "b", lines[100:101], np.int32)
        return ConcatDataset([ConcatDataset([a, b]), mapped(folder / "c", lines[101:], np.int64)])
    order = np.random.default_rng(1).permutation(len(lines))
    tokens = mapped(folder / "a", [lines[i] for i in order])
    index, back = tokens._index, np.argsort(order)
    index._pointers, index._sizes = index._pointers[back], index._sizes[back]
    return tokens


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", ["tensors", "mapped", "concatenated", "out of order"])
def test_blocks_measure_what_lines_have(kind, limits, reverse, tmp_path, monkeypatch):
    monkeypatch.setattr(dialog_sizes, "_BLOCK_LINES", 64)
    lines = random_lines(700, seed=4)
    tokens = stored(kind, lines, tmp_path)
    prefix, response, faults, num_cut = one_by_one(lines, limits, reverse)
    assert min(faults.values()) > 5 and num_cut > 20  # otherwise the test would be empty
    measured = dialog_sizes.measure_dialogs(tokens, CTX_ID, SEP_ID, limits, reverse)
    assert measured.prefix.tolist() == prefix
    assert measured.response.tolist() == response
    assert measured.indices.tolist() == np.flatnonzero(prefix).tolist()
    assert (measured.faults, measured.num_cut) == (faults, num_cut)
    dataset = DialogDataset(tokens, DICTIONARY, CTX_ID, SEP_ID, limits, None, reverse=reverse)
    for i in dataset.indices:
        tokens, prefix_length = dataset[i]["tokens"], dataset[i]["prefix"]
        assert len(tokens) == dataset.sizes[i] + 1 and prefix_length == prefix[i]
        assert (tokens == SEP_ID).nonzero().item() == prefix_length - 1
        if not reverse:
            query = tokens[1 : prefix_length - 1]  # behind the last <CTX>
            before = (query == CTX_ID).nonzero().flatten().tolist()
            assert measured.query[i] == len(query) - (before[-1] + 1 if before else 0)


def test_nothing_to_measure(tmp_path):
    for tokens in ([], mapped(tmp_path / "a", [[5, SEP_ID, 6, END]])):
        measured = dialog_sizes.measure_dialogs(tokens, CTX_ID, SEP_ID, LIMITS[0], False)
        assert len(measured.prefix) == len(measured.indices) == len(tokens)


def test_a_mapped_file_is_not_read_line_by_line(tmp_path, monkeypatch):
    tokens = mapped(tmp_path / "a", random_lines(20, seed=1))
    monkeypatch.delattr(MMapIndexedDataset, "__getitem__")
    dialog_sizes.measure_dialogs(tokens, CTX_ID, SEP_ID, LIMITS[0], False)

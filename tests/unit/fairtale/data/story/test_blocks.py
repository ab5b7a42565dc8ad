"""Blocks of long texts: every token of every text is a target exactly once."""

import logging

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, data_utils

from fairtale.data.corpus.vocabulary import token_bytes
from fairtale.data.corpus.words import WordCounter
from fairtale.data.story.blocks import BlockDataset
from fairtale.data.story.dataset import StoryDataset
from fairtale.errors import UserError
from tests.helpers import random_rows, tiny_dictionary, write_split
from tests.story_helpers import data_folder, setup

BEGIN, PAD, END = 0, 1, 2
LENGTHS = [3, 0, 17, 8, 7, 0, 0, 40, 1, 15, 16]  # without the end mark


def blocks_of(rows, size=8, **options):
    """Return a :class:`BlockDataset` of rows of words, which get their end marks here."""
    texts = [torch.cat([torch.as_tensor(r).long(), torch.tensor([END])]) for r in rows]
    dictionary = tiny_dictionary()
    words = WordCounter(dictionary)
    sizes = [len(t) for t in texts]
    return BlockDataset(
        texts, sizes, dictionary, size, token_bytes(dictionary), words=words, **options
    )


def flat(dataset, name):
    return torch.cat([dataset[i][name] for i in range(len(dataset))]).tolist()


def joined(rows, begin):
    """The targets, or with ``begin`` the inputs, of all texts one after the other."""
    found = []
    for row in rows:
        if len(row):
            words = row.tolist()
            found += [BEGIN, *words] if begin else [*words, END]
    return found


# ------------------------------------------------------------------------------- blocks


def test_a_text_is_split_into_consecutive_blocks():
    dataset = blocks_of([range(4, 12), range(12, 15)], size=4)
    assert dataset.sizes.tolist() == [4, 4, 1, 4]
    assert [dataset[i]["source"].tolist() for i in range(4)] == [
        [BEGIN, 4, 5, 6],
        [7, 8, 9, 10],
        [11],
        [BEGIN, 12, 13, 14],
    ]
    assert [dataset[i]["target"].tolist() for i in range(4)] == [
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [END],
        [12, 13, 14, END],
    ]


def test_blocks_across_texts_are_full_and_begin_every_text_with_bos():
    dataset = blocks_of([range(4, 7), [], range(7, 12)], size=4, across=True)
    assert dataset.sizes.tolist() == [4, 4, 2]
    assert [dataset[i]["target"].tolist() for i in range(3)] == [
        [4, 5, 6, END],
        [7, 8, 9, 10],
        [11, END],
    ]
    assert dataset[1]["source"].tolist() == [BEGIN, 7, 8, 9]
    middle = blocks_of([range(4, 7), range(7, 12)], size=6, across=True)
    assert middle[0]["source"].tolist() == [BEGIN, 4, 5, 6, BEGIN, 7]
    assert middle[0]["target"].tolist() == [4, 5, 6, END, 7, 8]


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("size", [2, 3, 8, 16, 1000])
def test_every_token_is_a_target_exactly_once(across, size):
    rows = random_rows(LENGTHS)
    dataset = blocks_of(rows, size, across=across)
    assert flat(dataset, "target") == joined(rows, begin=False)
    assert flat(dataset, "source") == joined(rows, begin=True)
    assert dataset.sizes.tolist() == [len(dataset[i]["target"]) for i in range(len(dataset))]
    assert dataset.sizes.max() <= size and dataset.sizes.min() >= 1
    assert (dataset.num_texts, dataset.num_empty) == (8, 3)
    if across:
        assert set(dataset.sizes[:-1].tolist()) <= {size}


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_an_error(index):
    with pytest.raises(IndexError):
        blocks_of([range(4, 14)], size=4)[index]


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("across", [False, True])
def test_an_epoch_of_batches_holds_every_token_once(across, pack):
    rows = random_rows(LENGTHS)
    dataset = blocks_of(rows, across=across, pack=pack)
    for seed in (1, 2):
        with data_utils.numpy_seed(seed):
            order = dataset.ordered_indices()
        batches = [
            dataset.collater([dataset[i] for i in batch])
            for batch in dataset.batch_by_size(order, max_tokens=24)
        ]
        targets = torch.cat([b["target"].flatten() for b in batches])
        targets = targets[targets != PAD].tolist()
        assert sorted(targets) == sorted(joined(rows, begin=False))
        assert sum(b["ntokens"] for b in batches) == len(targets)
        counts = token_bytes(dataset.dictionary)
        assert sum(b["nbytes"] for b in batches) == int(counts[targets].sum())
        assert sum(b["nwords"] for b in batches) == sum(map(len, rows))
        assert all(b["padded_tokens"] <= 24 for b in batches)


def test_short_texts_are_the_same_as_stories():
    rows = random_rows([5, 3, 7])
    texts = [torch.cat([r, torch.tensor([END])]) for r in rows]
    dictionary = tiny_dictionary()
    common = (texts, list(map(len, texts)), dictionary, 8, token_bytes(dictionary))
    stories, blocks = StoryDataset(*common), BlockDataset(*common)
    for index in range(3):
        assert blocks[index]["source"].tolist() == stories[index]["source"].tolist()
        assert blocks[index]["target"].tolist() == stories[index]["target"].tolist()


def test_the_index_of_a_million_rows_is_computed_without_reading_them():
    sizes = np.random.RandomState(0).randint(1, 3000, 1_000_000).astype(np.int32)

    class Unread:
        def __len__(self):
            return len(sizes)

        def __getitem__(self, index):
            raise AssertionError("a row was read")

    dictionary = tiny_dictionary()
    for across in (False, True):
        dataset = BlockDataset(
            Unread(), sizes, dictionary, 1024, token_bytes(dictionary), across=across
        )
        kept = sizes[sizes > 1].astype(np.int64)
        assert int(dataset.sizes.sum(dtype=np.int64)) == int(kept.sum())
        assert dataset._starts.nbytes + dataset.sizes.nbytes < 24e6


# ---------------------------------------------------------------------- rows on disk


@pytest.mark.parametrize("across", [False, True])
def test_blocks_of_several_memory_mapped_folders(tmp_path, across):
    dictionary = tiny_dictionary()
    rows = random_rows(LENGTHS)
    folders = []
    for name, part in (("a", rows[:5]), ("b", rows[5:])):
        folders.append(data_folder(tmp_path / name, dictionary, train=part))
    mode = "none" if across else "split"
    task = setup(*folders, tokens_per_sample=8, sample_break_mode=mode)
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert isinstance(dataset, BlockDataset) and dataset.across == across
    assert flat(dataset, "target") == joined(rows, begin=False)
    assert flat(dataset, "source") == joined(rows, begin=True)
    assert task.max_positions() == task.needed_positions == 8


def test_only_the_tokens_of_a_block_are_read(tmp_path, monkeypatch):
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    dictionary = Dictionary()
    for number in range(70_000):  # so many entries are written as int32, few as uint16
        dictionary.add_symbol(f"w{number}")
    row = torch.arange(60_000, 70_000)
    for vocabulary, expected in ((70_004, row), (tiny_dictionary(), None)):
        size = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
        row = expected if expected is not None else torch.arange(4, 24)
        folder = tmp_path / str(size)
        folder.mkdir()
        write_split(folder, "train", [row[:3], row], size)
        tokens = data_utils.load_indexed_dataset(str(folder / "train"), dictionary)
        whole = tokens[1].tolist()
        with monkeypatch.context() as patch:
            patch.setattr(MMapIndexedDataset, "__getitem__", lambda *_: pytest.fail("read whole"))
            dataset = BlockDataset(tokens, tokens.sizes, dictionary, 8, torch.ones(70_004))
            assert flat(dataset, "target")[4:] == whole


def test_report(caplog):
    with caplog.at_level(logging.INFO):
        blocks_of([range(4, 24), [], [5]]).report("train")
    assert (
        "train: 2 works, 23 tokens in 4 blocks of at most 8, 71.9 % full; left out as empty: 1"
        in caplog.text
    )
    with pytest.raises(UserError, match="split valid holds no work: all 2 rows are empty"):
        blocks_of([[], []]).report("valid")

"""Binarised pairs: their languages, their pieces, and which of them are scored."""

import numpy as np
import pytest
import torch
from fairseq.data import LanguagePairDataset

from fairtale.data.parallel.dataset import ScoredPairs, find_pair, find_pieces, select_scored
from fairtale.errors import UserError
from tests.helpers import random_rows, tiny_dictionary


def touch(folder, *names):
    for name in names:
        (folder / name).write_text("")


@pytest.mark.parametrize(
    ("files", "asked", "pair"),
    [
        ([], (None, None), ("en", "ru")),
        ([], ("de", "cs"), ("de", "cs")),
        (["train.de-en.de.idx", "train.de-en.en.idx"], (None, None), ("de", "en")),
        (["train.ru-en.ru.idx"], (None, None), ("ru", "en")),
        (["train.en-ru.ru.idx"], ("ru", None), ("ru", "en")),
        (["train.en-ru.ru.idx"], (None, "en"), ("ru", "en")),
        (["test.en-ru.ru.idx", "test.de-en.de.idx"], (None, None), ("en", "ru")),
        (["test.en-ru.ru.idx", "test.de-en.de.idx"], ("de", None), ("de", "en")),
        (["dict.en.txt", "dict.ru.txt"], (None, None), ("en", "ru")),
        (["dict.fi.txt", "dict.de.txt"], (None, None), ("de", "fi")),
        (["dict.fi.txt", "dict.de.txt"], ("fi", None), ("fi", "de")),
        ([], ("en", None), ("en", "ru")),
        ([], ("ru", None), ("ru", "en")),
    ],
)
def test_languages(tmp_path, files, asked, pair):
    touch(tmp_path, "prepare.txt", "tokenizer.json", "preprocess.log", *files)
    assert find_pair(str(tmp_path), *asked) == pair


@pytest.mark.parametrize("asked", [(None, None), ("en", None)])
def test_several_pairs_to_choose_from(tmp_path, asked):
    touch(tmp_path, "train.de-en.de.idx", "train.en-fr.en.idx")
    with pytest.raises(UserError, match=r"several language pairs \(de-en, en-fr\): choose .* -s"):
        find_pair(str(tmp_path), *asked)


def test_pieces_of_both_languages_or_of_the_source(tmp_path):
    assert find_pieces([str(tmp_path)], "en") is None
    touch(tmp_path, "sentencepiece.bpe.en.model")
    assert find_pieces([str(tmp_path)], "ru") is None
    assert find_pieces([str(tmp_path)], "en").endswith("sentencepiece.bpe.en.model")
    touch(tmp_path, "sentencepiece.bpe.model")
    assert find_pieces([str(tmp_path)], "en").endswith("sentencepiece.bpe.model")


def test_a_byte_level_tokenizer_is_that_of_both_languages(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    assert find_pieces([str(tmp_path)], "en").endswith("tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"tokenizer": "moses"}')
    assert find_pieces([str(tmp_path)], "en") is None


def pairs_of(lengths):
    dictionary = tiny_dictionary()
    rows = [torch.cat([row, torch.tensor([2])]) for row in random_rows(lengths)]
    sizes = np.array([len(row) for row in rows])
    return LanguagePairDataset(rows, sizes, dictionary, rows, sizes, dictionary, shuffle=False)


@pytest.mark.parametrize(
    ("count", "scored"),
    [(0, []), (1, [0]), (3, [0, 2, 4]), (7, [0, 1, 2, 3, 4, 5, 6]), (99, list(range(7)))],
)
def test_which_are_scored(count, scored):
    dataset = ScoredPairs(pairs_of([3] * 7), count)
    batch = dataset.collater([dataset[i] for i in (6, 0, 3, 2, 5, 1, 4)])
    assert sorted(batch["id"][batch["scored"]].tolist()) == scored
    assert dataset.collater([]) == {}


def test_scored_pairs_are_pairs():
    pairs = pairs_of([3, 5, 2])
    dataset = ScoredPairs(pairs, 2)
    assert dataset.src is pairs.src and dataset.tgt is pairs.tgt
    assert dataset.num_tokens_vec(np.array([1, 2])).tolist() == [6, 3]
    assert dataset.ordered_indices().tolist() == pairs.ordered_indices().tolist()
    assert len(dataset) == 3 and (dataset.sizes == pairs.sizes).all()


def test_selecting_cuts_padding_and_nothing_else():
    dataset = ScoredPairs(pairs_of([2, 7, 3, 4]), 2)  # 0 and 2 are scored
    batch = dataset.collater([dataset[i] for i in range(4)])
    chosen = select_scored(batch, pad=1)
    assert chosen["id"].tolist() == [2, 0]  # fairseq sorts a batch by length
    lengths = chosen["net_input"]["src_lengths"]
    assert lengths.tolist() == [4, 3] and chosen["net_input"]["src_tokens"].shape == (2, 4)
    for row, id_ in zip(chosen["net_input"]["src_tokens"], (2, 0)):
        assert row[row != 1].tolist() == dataset.src[id_].tolist()
    for row, id_ in zip(chosen["target"], (2, 0)):
        assert row[row != 1].tolist() == dataset.tgt[id_].tolist()


def test_a_batch_without_scored_rows():
    dataset = ScoredPairs(pairs_of([2, 7, 3, 4]), 2)
    batch = dataset.collater([dataset[i] for i in (1, 3)])
    assert select_scored(batch, pad=1) is None
    del batch["scored"]
    assert select_scored(batch, pad=1) is None

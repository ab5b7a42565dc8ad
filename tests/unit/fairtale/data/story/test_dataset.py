"""Batches of stories and prompts: no story is lost or repeated, and all are counted."""

import logging

import numpy as np
import pytest
import torch

from fairtale.data.corpus.vocabulary import token_bytes
from fairtale.data.story.dataset import PromptDataset, StoryDataset
from fairtale.errors import UserError
from tests.helpers import (
    dictionary_of,
    random_rows,
    tiny_dictionary,
    tiny_task,
    train_tokenizer,
    write_split,
)

BEGIN, PAD, END = 0, 1, 2
LIMIT = 16  # tokens per sample


def dataset_of(rows, tokens_per_sample=LIMIT, **options):
    """Return a :class:`StoryDataset` of rows of words, which get their end marks here."""
    stories = [torch.cat([torch.as_tensor(r).long(), torch.tensor([END])]) for r in rows]
    dictionary = tiny_dictionary()
    return StoryDataset(
        stories,
        [len(s) for s in stories],
        dictionary,
        tokens_per_sample,
        token_bytes(dictionary),
        **options,
    )


def rows_of_many_lengths(count, longest=20, seed=0):
    lengths = np.random.RandomState(seed).randint(1, longest + 1, count)
    return random_rows(lengths.tolist(), seed=seed)


# ------------------------------------------------------------------------------- stories


def test_a_story_stands_between_its_marks():
    dataset = dataset_of([[5, 6, 7]])
    item = dataset[0]
    assert item["source"].tolist() == [BEGIN, 5, 6, 7]
    assert item["target"].tolist() == [5, 6, 7, END]
    assert item["id"] == 0 and item["source"].dtype == item["target"].dtype == torch.int64


def test_long_stories_are_cut_and_counted():
    dataset = dataset_of([range(4, 24), range(4, 19), range(4, 20), []], tokens_per_sample=16)
    assert dataset.sizes.tolist() == [16, 16, 16, 1]
    assert (dataset.num_cut, dataset.num_empty, len(dataset)) == (2, 1, 4)
    assert dataset[0]["source"].tolist() == [BEGIN, *range(4, 19)]
    assert dataset[0]["target"].tolist() == [*range(4, 20)]
    assert dataset[1]["target"].tolist() == [*range(4, 19), END]  # just fits
    assert dataset[2]["target"].tolist() == [*range(4, 20)]  # there is no room for </s>
    assert dataset.ordered_indices().tolist().count(3) == 0


def test_padded_batch_by_hand():
    dataset = dataset_of([[5, 6], [7, 8, 9, 10], [11]])
    batch = dataset.collater([dataset[i] for i in range(3)])
    assert batch["id"].tolist() == [1, 0, 2]  # the longest first
    assert batch["net_input"]["src_tokens"].tolist() == [
        [BEGIN, 7, 8, 9, 10],
        [BEGIN, 5, 6, PAD, PAD],
        [BEGIN, 11, PAD, PAD, PAD],
    ]
    assert batch["net_input"]["src_lengths"].tolist() == [5, 3, 2]
    assert batch["target"].tolist() == [
        [7, 8, 9, 10, END],
        [5, 6, END, PAD, PAD],
        [11, END, PAD, PAD, PAD],
    ]
    assert (batch["ntokens"], batch["nsentences"], batch["padded_tokens"]) == (10, 3, 15)
    # w1 is two bytes and a space, w10 three and a space
    assert batch["nbytes"] == sum(len(f"w{i - 4} ") for i in range(5, 12))


def test_packed_batch_by_hand():
    dataset = dataset_of([[5, 6], [7, 8, 9, 10], [11]], pack=True)
    batch = dataset.collater([dataset[i] for i in range(3)])
    inputs = batch["net_input"]
    assert batch["id"].tolist() == [1, 0, 2]
    assert inputs["src_tokens"].tolist() == [[BEGIN, 7, 8, 9, 10, BEGIN, 5, 6, BEGIN, 11]]
    assert batch["target"].tolist() == [[7, 8, 9, 10, END, 5, 6, END, 11, END]]
    assert inputs["positions"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1]]
    assert batch["sample_index"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]]
    assert inputs["src_lengths"].tolist() == [10]
    packing = inputs["packing"]
    assert packing["pad_index"].shape == (3, 5) and len(packing["unpad_index"]) == 10
    assert batch["ntokens"] == batch["padded_tokens"] == 10  # 100 % full
    assert batch["nsentences"] == 3
    apart = dataset_of([[5, 6], [7, 8, 9, 10], [11]])
    assert batch["nbytes"] == apart.collater([apart[i] for i in range(3)])["nbytes"]


def test_no_samples_make_no_batch():
    assert dataset_of([[5]]).collater([]) == {}
    assert PromptDataset([torch.tensor([5])], tiny_dictionary()).collater([]) == {}


def test_bytes_are_those_of_the_texts(tmp_path):
    texts = ["Tom and the 🐈 ran.", "“Yes”, she said…", "über alles 猫", "the the the the the"]
    tokenizer = train_tokenizer(tmp_path / "model", texts[:1] * 9)
    dictionary = dictionary_of(tokenizer)
    stories = [
        dictionary.encode_line(
            " ".join(tokenizer.encode(t, out_type=str)), add_if_not_exist=False
        ).long()
        for t in texts
    ]
    for pack in (False, True):
        dataset = StoryDataset(
            stories, [len(s) for s in stories], dictionary, 256, token_bytes(dictionary), pack=pack
        )
        batch = dataset.collater([dataset[i] for i in range(4)])
        assert batch["nbytes"] == sum(len((text + "\n").encode()) for text in texts)


# ------------------------------------------------------------------------------- batches


def batches_of(dataset, epoch=1, shuffle=True, num_shards=1, **options):
    """Return the batches of an epoch as the trainer would see them, for every worker."""
    task, found = tiny_task(dataset.dictionary, LIMIT), []
    for shard in range(num_shards):
        iterator = task.get_batch_iterator(
            dataset,
            max_positions=LIMIT,
            required_batch_size_multiple=8,
            seed=1,
            epoch=epoch,
            num_shards=num_shards,
            shard_id=shard,
            **options,
        )
        found += list(iterator.next_epoch_itr(shuffle=shuffle))
    return found


def stories_of(batches):
    return [number for batch in batches if batch for number in batch["id"].tolist()]


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 23, 100])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "budget", [dict(max_tokens=64), dict(max_sentences=3), dict(max_tokens=16)]
)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_every_story_is_in_exactly_one_batch(count, pack, shuffle, budget, num_shards):
    dataset = dataset_of(rows_of_many_lengths(count), shuffle=shuffle, pack=pack)
    batches = batches_of(dataset, shuffle=shuffle, num_shards=num_shards, **budget)
    assert sorted(stories_of(batches)) == list(range(count))
    for batch in filter(None, batches):
        assert batch["padded_tokens"] <= budget.get("max_tokens", 10**6)
        assert batch["nsentences"] <= budget.get("max_sentences", 10**6)
        assert batch["ntokens"] == batch["target"].ne(PAD).sum() <= batch["padded_tokens"]


def test_targets_of_all_batches_are_the_stories():
    rows = rows_of_many_lengths(30)
    for pack in (False, True):
        dataset = dataset_of(rows, pack=pack)
        for batch in batches_of(dataset, max_tokens=64):
            flat = batch["target"][batch["target"] != PAD]
            expected = [
                torch.cat([rows[i], torch.tensor([END])])[:LIMIT] for i in batch["id"].tolist()
            ]
            assert torch.equal(flat, torch.cat(expected))


def test_empty_lines_are_in_no_batch():
    rows = [[5], [], [6, 7], [], []]
    for pack in (False, True):
        assert sorted(stories_of(batches_of(dataset_of(rows, pack=pack), max_tokens=64))) == [0, 2]


@pytest.mark.parametrize("pack", [False, True])
def test_epochs_differ_and_repeat(pack):
    dataset = dataset_of(rows_of_many_lengths(60), shuffle=True, pack=pack)
    first, again, second = (
        [b["id"].tolist() for b in batches_of(dataset, epoch, max_tokens=64)] for epoch in (1, 1, 2)
    )
    assert first == again
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))  # other batches, not orders


def test_a_validation_set_keeps_its_order():
    dataset = dataset_of(rows_of_many_lengths(60), shuffle=False)
    order = dataset.ordered_indices()
    sizes = dataset.sizes[order]
    assert (np.diff(sizes) >= 0).all()
    for size in set(sizes):
        assert (np.diff(order[sizes == size]) > 0).all()
    assert (order == dataset.ordered_indices()).all()
    packed = dataset_of(rows_of_many_lengths(60), shuffle=False, pack=True)
    assert (packed.ordered_indices() == order).all()


def test_packed_batches_are_drawn_from_all_lengths():
    dataset = dataset_of(rows_of_many_lengths(400), shuffle=True, pack=True)
    sizes = dataset.sizes[dataset.ordered_indices()]
    assert abs(np.corrcoef(sizes, np.arange(400))[0, 1]) < 0.2


def fullness(batches):
    return sum(b["ntokens"] for b in batches) / sum(b["padded_tokens"] for b in batches)


def test_how_full_batches_are():
    rows = rows_of_many_lengths(400)
    padded = batches_of(dataset_of(rows), max_tokens=256)
    assert 0.9 < fullness(padded) < 1  # stories of about equal length share a batch
    packed = batches_of(dataset_of(rows, pack=True), max_tokens=256)
    assert fullness(packed) == 1
    budget = sum(b["padded_tokens"] for b in packed) / (256 * len(packed))
    assert budget > 0.95  # and nearly all of --max-tokens is used


@pytest.mark.parametrize("pack", [False, True])
def test_a_story_larger_than_the_budget_is_refused(pack):
    dataset = dataset_of([range(4, 14), [5], [6]], pack=pack, shuffle=False)
    order = dataset.ordered_indices()
    assert [b.tolist() for b in dataset.batch_by_size(order, max_tokens=11)] == [[1, 2], [0]]
    with pytest.raises(UserError, match="--max-tokens 10: the longest story has 11 tokens"):
        dataset.batch_by_size(order, max_tokens=10)
    assert len(dataset.batch_by_size(order[:0], max_tokens=10)) == 0


def test_report(caplog):
    dataset = dataset_of([range(4, 24), [5, 6], []])
    with caplog.at_level(logging.INFO):
        dataset.report("train")
    assert "train: 2 stories, 19 tokens" in caplog.text
    assert "left out as empty: 1" in caplog.text and "cut to 16 tokens: 1" in caplog.text
    with pytest.raises(UserError, match="split valid holds no story: all 2 rows are empty"):
        dataset_of([[], []]).report("valid")


def test_stories_are_read_lazily_from_disk(tmp_path):
    """The same batches from memory-mapped files, as fairseq-preprocess writes them."""
    from fairseq.data import data_utils

    rows, dictionary = rows_of_many_lengths(20), tiny_dictionary()
    write_split(tmp_path, "train", rows, len(dictionary))
    tokens = data_utils.load_indexed_dataset(str(tmp_path / "train"), dictionary)
    found = StoryDataset(
        tokens, tokens.sizes, dictionary, LIMIT, token_bytes(dictionary), shuffle=False
    )
    expected = dataset_of(rows, shuffle=False)
    for ours, theirs in zip(
        batches_of(found, shuffle=False, max_tokens=64),
        batches_of(expected, shuffle=False, max_tokens=64),
        strict=True,
    ):
        assert torch.equal(ours["target"], theirs["target"])
        assert torch.equal(ours["net_input"]["src_tokens"], theirs["net_input"]["src_tokens"])


# ------------------------------------------------------------------------------- prompts


def test_prompts_begin_and_do_not_end():
    prompts = [torch.tensor(p) for p in ([5, 6, END], [7], [END])] + [torch.tensor([]).long()]
    dataset = PromptDataset(prompts, tiny_dictionary())
    assert dataset.sizes.tolist() == [3, 2, 1, 1] and len(dataset) == 4
    batch = dataset.collater([dataset[i] for i in range(4)])
    assert batch["net_input"]["src_tokens"].tolist() == [
        [BEGIN, 5, 6],
        [BEGIN, 7, PAD],
        [BEGIN, PAD, PAD],
        [BEGIN, PAD, PAD],
    ]
    assert batch["net_input"]["src_lengths"].tolist() == [3, 2, 1, 1]
    assert batch["id"].tolist() == [0, 1, 2, 3]
    assert (batch["nsentences"], batch["ntokens"], batch["target"]) == (4, 7, None)


@pytest.mark.parametrize("count", [1, 5, 8, 11])
def test_every_prompt_is_in_exactly_one_batch(count):
    rows = random_rows(np.random.RandomState(0).randint(0, 9, count).tolist())
    batches = batches_of(PromptDataset(rows, tiny_dictionary()), shuffle=False, max_sentences=4)
    assert sorted(stories_of(batches)) == list(range(count))

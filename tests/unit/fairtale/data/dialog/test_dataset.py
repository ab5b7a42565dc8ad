"""Which dialogs are trained on, and how they are put into batches."""

import numpy as np
import pytest

from fairtale.data.dialog.cutting import DialogLimits
from fairtale.data.dialog.dataset import Echo, report_dialog_dataset
from fairtale.errors import UserError
from tests.dialog_helpers import batch_of, dialog_dataset, dialog_dictionary, random_lines


def test_faulty_lines_are_counted_and_left_out():
    lines = [
        "w1 w2",  # without <SEP>
        "w1 <SEP> w2 <SEP> w3",  # several
        "<SEP> w1",  # no query
        "w1 <SEP>",  # no response
        "w1 <CTX> <SEP> w2",  # a context, but no query
        "w1 <SEP> w2",
    ]
    dataset = dialog_dataset(lines)
    assert dataset.indices.tolist() == [5]
    assert dataset.faults == {
        "without <SEP>": 1,
        "with several <SEP>": 1,
        "with an empty side": 3,
    }


def test_a_split_of_faulty_lines_is_an_error():
    with pytest.raises(UserError, match="2 without <SEP>"):
        report_dialog_dataset("train", dialog_dataset(["w1", "w2"]))


@pytest.mark.parametrize("max_tokens, max_sentences", [(40, None), (None, 3), (60, 2), (5, None)])
def test_every_dialog_is_in_exactly_one_batch(max_tokens, max_sentences):
    dataset = dialog_dataset(random_lines(101))
    with np.errstate(all="raise"):
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens, max_sentences, 8)
    assert sorted(np.concatenate(batches)) == list(range(101))
    for batch in batches:
        cells = len(batch) * (
            dataset.prefix_sizes[batch].max() + dataset.response_sizes[batch].max() - 1
        )
        assert max_tokens is None or cells <= max_tokens or len(batch) == 1
        assert max_sentences is None or len(batch) <= max_sentences


@pytest.mark.parametrize("max_tokens, max_sentences", [(40, None), (None, 3), (60, 2), (5, None)])
def test_a_batch_takes_dialogs_while_they_fit(max_tokens, max_sentences):
    dataset = dialog_dataset(random_lines(101))
    order = dataset.ordered_indices()
    batches = dataset.batch_by_size(order, max_tokens, max_sentences)
    assert np.concatenate(batches).tolist() == order.tolist()
    for batch, after in zip(batches, batches[1:]):
        one_more = np.append(batch, after[0])
        cells = len(one_more) * (
            dataset.prefix_sizes[one_more].max() + dataset.response_sizes[one_more].max() - 1
        )
        assert len(batch) == max_sentences or (max_tokens is not None and cells > max_tokens)


def test_order_keeps_batches_full():
    dataset = dialog_dataset(random_lines(3000, longest=20), shuffle=True)

    def fullness(order):
        real = cells = 0
        for batch in dataset.batch_by_size(order, max_tokens=400):
            longest = dataset.prefix_sizes[batch].max() + dataset.response_sizes[batch].max() - 1
            cells += len(batch) * longest
            real += dataset.sizes[batch].sum()
        return real / cells

    np.random.seed(1)
    ordered = fullness(dataset.ordered_indices())
    unsorted = fullness(np.random.permutation(dataset.indices))
    assert ordered > 0.9 > unsorted + 0.2


def test_the_order_changes_with_the_epoch_and_repeats():
    dataset = dialog_dataset(random_lines(50))

    def order(seed):
        np.random.seed(seed)
        return dataset.ordered_indices().tolist()

    assert order(1) == order(1) != order(2)


def test_long_sides_are_cut_and_counted():
    limits = DialogLimits(max_context_turns=1, max_source_positions=6, max_target_positions=3)
    lines = ["w1 w2 <CTX> w3 w4 w5 <SEP> w6 w7 w8 w9", "w1 <SEP> w2"]
    dataset = dialog_dataset(lines, limits=limits)
    dictionary = dataset.dictionary
    words = [dictionary[i] for i in dataset[0]["tokens"].tolist()]
    assert words == ["<s>", "w3", "w4", "w5", "<SEP>", "w6", "w7", "w8"]
    assert dataset.num_cut == 1
    assert dataset.prefix_sizes.tolist() == [5, 3]
    assert dataset.response_sizes.tolist() == [3, 2]


def test_reverse_swaps_query_and_response():
    dataset = dialog_dataset(["w1 <CTX> w2 w3 <SEP> w4"], reverse=True)
    words = [dataset.dictionary[i] for i in dataset[0]["tokens"].tolist()]
    assert words == ["<s>", "w4", "<SEP>", "w2", "w3", "</s>"]


def test_counts_of_a_batch_add_up():
    dataset = dialog_dataset(random_lines(9), dialog_dictionary())
    batch = batch_of(dataset)
    sizes = dataset.prefix_sizes + dataset.response_sizes - 1
    assert batch["ntokens"] == sizes.sum() == batch["target"].numel()
    assert batch["response_ntokens"] == dataset.response_sizes.sum()
    longest = dataset.prefix_sizes.max() + dataset.response_sizes.max() - 1
    assert batch["padded_tokens"] == 9 * longest
    assert batch["sample_index"][0].bincount().tolist() == sizes.tolist()


# --------------------------------------------------------------- queries as responses


def words_of(dataset, index):
    return " ".join(dataset.dictionary[i] for i in dataset[index]["tokens"].tolist())


def test_an_echo_has_the_query_as_its_response():
    lines = ["w1 <CTX> w2 w3 w4 <SEP> w5", "w1 <SEP> w2 w3"]
    dataset = dialog_dataset(lines, echo=Echo(1.0, 1))
    assert words_of(dataset, 0) == "<s> w1 <CTX> w2 w3 w4 <SEP> w2 w3 w4 </s>"
    assert words_of(dataset, 1) == "<s> w1 <SEP> w1 </s>"
    assert dataset.response_sizes.tolist() == [4, 2]
    batch = batch_of(dataset)
    assert batch["response_ntokens"] == 6 and batch["ntokens"] == dataset.sizes.sum()

    # what the limits cut from the query, the response cannot repeat; it is cut itself, too
    short = dialog_dataset(lines, limits=DialogLimits(1, 4, 2), echo=Echo(1.0, 1))
    assert words_of(short, 0) == "<s> w3 w4 <SEP> w3 w4"
    assert words_of(short, 1) == "<s> w1 <SEP> w1 </s>"


def test_echoes_are_drawn_anew_in_every_epoch_and_repeat():
    plain = dialog_dataset(random_lines(2000))
    dataset = dialog_dataset(random_lines(2000), echo=Echo(0.3, 7))
    drawn = {}
    for epoch in (1, 2, 3):
        dataset.set_epoch(epoch)
        drawn[epoch] = dataset.echoed.copy()
        assert dataset.echoed.mean() == pytest.approx(0.3, abs=0.04)
        for i in range(0, 2000, 97):
            assert words_of(dataset, i).startswith(words_of(plain, i).split("<SEP>")[0])
            same = words_of(dataset, i) == words_of(plain, i)
            assert same or dataset.echoed[i]
            assert len(dataset[i]["tokens"]) == dataset.sizes[i] + 1
    assert (drawn[1] != drawn[2]).any() and (drawn[2] != drawn[3]).any()

    # another process, which begins in epoch 3
    other = dialog_dataset(random_lines(2000), echo=Echo(0.3, 7))
    other.set_epoch(3)
    assert (other.echoed == drawn[3]).all()
    assert (dialog_dataset(random_lines(2000), echo=Echo(0.3, 8)).echoed != drawn[1]).any()


def test_batches_of_echoes_keep_to_their_size():
    dataset = dialog_dataset(random_lines(300), echo=Echo(0.5, 1))
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens=60)
        assert sorted(np.concatenate(batches)) == list(range(300))
        for batch in batches:
            made = dataset.collater([dataset[i] for i in batch])
            assert made["padded_tokens"] <= 60

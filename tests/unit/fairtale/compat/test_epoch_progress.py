"""An epoch goes on where it stopped, with any number of workers and any ``--update-freq``."""

import pytest
from fairseq.data.iterators import EpochBatchIterator, GroupedIterator

from fairtale.errors import UserError
from tests.compat_helpers import pristine

BATCHES = [[n, n + 1] for n in range(0, 26, 2)]  # 13


class Numbers:
    """A data set of numbers."""

    def __getitem__(self, index):
        return index

    def __len__(self):
        return 26


def iterator_of(rank, count, cls=EpochBatchIterator, batches=BATCHES, data=Numbers, **options):
    from torch.utils.data import Dataset

    dataset = type("Dataset", (data, Dataset), {})()
    return cls(dataset, list, batches, num_shards=count, shard_id=rank, **options)


def run(
    count, freq, updates, state=None, cls=EpochBatchIterator, groups=GroupedIterator, **options
):
    """Take updates in ``count`` workers; return their samples in order, and the state."""
    iterators = [iterator_of(rank, count, cls, **options) for rank in range(count)]
    workers = []
    for iterator in iterators:
        if state is not None:
            iterator.load_state_dict(state)
        grouped = groups(iterator.next_epoch_itr(), freq)
        workers.append([chunk for _, chunk in zip(range(updates), grouped)])
    seen = []
    for chunks in zip(*workers, strict=True):
        found = [chunk[i] for i in range(freq) for chunk in chunks if i < len(chunk)]
        seen.append([samples for samples in found if samples])
    states = [iterator.state_dict() for iterator in iterators]
    assert all(found == states[0] for found in states)
    return seen, states[0]


@pytest.mark.parametrize("end", [1, 2, 3])
@pytest.mark.parametrize("before", [(1, 4), (2, 2), (4, 1)])
@pytest.mark.parametrize("after", [(1, 4), (2, 2), (4, 1)])
def test_updates_are_those_of_an_undisturbed_epoch(before, after, end):
    straight, _ = run(1, 4, 99)
    first, state = run(*before, end)
    rest, state = run(*after, 99, state)
    assert first + rest == straight and len(straight) == 4
    assert (state["epoch"], state["iterations_in_epoch"], state["batches"]) == (2, 0, 0)
    assert run(*before, 99, state)[0] == run(1, 4, 99, state)[0]  # the next epoch


@pytest.mark.parametrize("path", [(3, 1), (2, 3), (1, 5), (5, 2), (16, 1)])
def test_another_size_of_update_loses_and_repeats_nothing(path):
    """Stopped three times, each time with another number of workers or batches in an update."""
    seen, state = run(2, 2, 1)
    for count, freq in (path, (1, 1), path):
        if state["epoch"] == 1:
            more, state = run(count, freq, 1 if count * freq < 8 else 99, state)
            seen += more
    if state["epoch"] == 1:
        seen += run(*path, 99, state)[0]
    samples = [sample for update in seen for batch in update for sample in batch]
    straight = [s for update in run(1, 1, 99)[0] for batch in update for s in batch]
    assert samples == straight and len(set(samples)) == 26


def test_fairseq_itself_repeats_or_fails():
    """If this fails, the work-around is needless."""
    stock = pristine("fairseq.data.iterators")
    kinds = {"cls": stock.EpochBatchIterator, "groups": stock.GroupedIterator}
    first, state = run(2, 1, 5, **kinds)
    rest, _ = run(1, 1, 99, state, **kinds)
    samples = [sample for update in first + rest for batch in update for sample in batch]
    assert len(samples) > len(set(samples)) == 26
    _, state = run(1, 1, 10, **kinds)
    with pytest.raises(RuntimeError, match="dataloader mismatch"):
        run(2, 1, 99, state, **kinds)


class Sized(Numbers):
    """A data set that tells the lengths of its samples."""

    sizes = list(range(26))


def batches_of(size):
    return [list(range(n, min(n + size, 26))) for n in range(0, 26, size)]


@pytest.mark.parametrize("sizes", [(2, 3, 5), (7, 1, 2), (1, 26, 1)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_other_batches_of_the_same_samples_lose_and_repeat_nothing(sizes, count):
    """As with another ``--max-tokens``, twice in an epoch, and on the way with more workers."""
    first, second, third = sizes
    seen, state = run(count, 1, 1, batches=batches_of(first), data=Sized)
    if state["epoch"] == 1:
        more, state = run(2, 1, 1, state, batches=batches_of(second), data=Sized)
        seen += more
    if state["epoch"] == 1:  # the same batches as before the stop
        more, state = run(1, 2, 1, state, batches=batches_of(second), data=Sized)
        seen += more
    if state["epoch"] == 1:
        more, state = run(count, 2, 99, state, batches=batches_of(third), data=Sized)
        seen += more
    samples = [sample for update in seen for batch in update for sample in batch]
    assert sorted(samples) == list(range(26))
    assert (state["epoch"], state["iterations_in_epoch"], state["batches"]) == (2, 0, 0)
    whole, _ = run(1, 1, 99, state, batches=batches_of(third), data=Sized)
    assert sorted(s for update in whole for batch in update for s in batch) == list(range(26))


def test_another_seed_orders_the_batches_that_are_left():
    first, state = run(1, 1, 5, data=Sized, seed=1)
    rest, _ = run(2, 1, 99, state, data=Sized, seed=2)
    samples = [sample for update in first + rest for batch in update for sample in batch]
    assert sorted(samples) == list(range(26))
    assert rest != run(2, 1, 99, state, data=Sized, seed=1)[0]


def test_other_data_are_refused():
    words = "stopped in epoch 1 after 8 of 13 batches, but the data"
    _, state = run(2, 2, 2)  # a data set without lengths
    with pytest.raises(UserError, match=words):
        run(2, 2, 1, state, batches=batches_of(1))
    _, state = run(2, 2, 2, data=Sized)
    other = type("Other", (Sized,), {"sizes": [*range(25), 7]})
    with pytest.raises(UserError, match=words):
        run(2, 2, 1, state, batches=batches_of(1), data=other)
    _, state = run(2, 2, 99)
    assert run(2, 2, 1, state, batches=batches_of(1))  # at the end of an epoch


def test_grouped_shuffling_depends_on_the_number_of_workers():
    _, state = run(2, 1, 2, grouped_shuffling=True)
    assert run(2, 1, 99, state, grouped_shuffling=True)
    with pytest.raises(UserError, match="--grouped-shuffling"):
        run(4, 1, 1, state, grouped_shuffling=True)


def test_a_checkpoint_without_the_number_is_read_as_before():
    _, state = run(2, 1, 3)
    old = {key: state[key] for key in ("version", "epoch", "iterations_in_epoch", "shuffle")}
    assert run(2, 1, 99, old)[0] == run(2, 1, 99, state)[0]

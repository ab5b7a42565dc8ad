"""The samples that fairseq drops when it makes batches."""

import numpy as np
import pytest
from fairseq.data import data_utils

from tests.compat_helpers import pristine


@pytest.mark.parametrize("size", [1, 7, 8, 13, 100])
def test_no_sample_is_lost(size):
    indices, lengths = np.arange(size), np.full(size, 5)

    def batches(module):
        made = module.batch_by_size(
            indices,
            lambda i: 5,
            num_tokens_vec=lengths,
            max_sentences=24,
            required_batch_size_multiple=8,
        )
        return [batch.tolist() for batch in made]

    def flat(made):
        return [number for batch in made for number in batch]

    assert flat(batches(data_utils)) == indices.tolist()
    assert max(map(len, batches(data_utils))) <= 24
    stock = batches(pristine("fairseq.data.data_utils"))
    assert (flat(stock) == indices.tolist()) == (size % 8 == 0)


def test_batches_keep_within_the_token_budget():
    lengths = np.array([3, 9, 4, 8, 1, 7, 2])
    order = np.argsort(lengths, kind="stable")
    made = data_utils.batch_by_size(
        order,
        lambda i: lengths[i],
        num_tokens_vec=lengths[order],
        max_tokens=18,
        required_batch_size_multiple=8,
    )
    assert np.concatenate(made).tolist() == order.tolist()
    assert all(len(batch) * lengths[batch].max() <= 18 for batch in made)


def test_no_sample_makes_no_batch():
    assert data_utils.batch_by_size(iter([]), lambda i: 1, max_sentences=4) == []

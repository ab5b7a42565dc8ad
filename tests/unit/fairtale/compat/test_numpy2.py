"""Names that NumPy 2 has removed."""

import numpy as np
import pytest
from fairseq.data import data_utils

from tests.compat_helpers import pristine


def test_buckets():
    """fairseq's own function fails with NumPy 2."""
    sizes = np.array([1, 2, 3, 4, 5, 6, 7, 8, 20, 30])
    assert data_utils.get_buckets(sizes, 3).tolist() == [4, 7, 30]
    with pytest.raises((TypeError, AttributeError)):
        pristine("fairseq.data.data_utils").get_buckets(sizes, 3)


def test_long_integers():
    assert np.compat.long is int  # the result with NumPy 1

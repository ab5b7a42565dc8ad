"""A small dictionary, and what a criterion asks of a task."""

from types import SimpleNamespace

import pytest
from fairseq.data import Dictionary

from tests.criterion_helpers import NUM_SYMBOLS


@pytest.fixture(scope="module")
def dictionary():
    dictionary = Dictionary()  # <s>, <pad>, </s>, <unk>
    for i in range(NUM_SYMBOLS - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    return dictionary


@pytest.fixture(scope="module")
def task(dictionary):
    return SimpleNamespace(
        target_dictionary=dictionary,
        source_dictionary=dictionary,
        dictionary=dictionary,
        output_dictionary=dictionary,
    )

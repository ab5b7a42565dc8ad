"""Collections that are read by ranges: every document once, doubles and gaps counted."""

import random

import pytest

from fairtale.data.documents.mongo_collections import IndexedCollection
from fairtale.errors import UserError
from tests.mongo_helpers import fake_server


def collection(records):
    return IndexedCollection(fake_server(docs=records), "docs")


def read_all(docs, last, limit):
    """Every idx, and the number of doubles, read in batches."""
    keys, num_doubles, after = [], 0, None
    while True:
        batch = docs.read_batch(after, last, limit)
        if batch.last is None:
            return keys, num_doubles
        keys += [record["idx"] for record in batch.records]
        num_doubles += batch.num_doubles
        after = batch.last


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_every_document_is_read_once_whatever_the_batch(limit):
    draw = random.Random(limit)
    keys = draw.sample(range(-50, 300), 60) + [2.5]
    doubles = [draw.choice(keys) for _ in range(15)]
    records = [{"idx": key} for key in keys + doubles] + [{"idx": "x"}, {"idx": None}, {}]
    draw.shuffle(records)
    docs = collection(records)
    assert read_all(docs, max(keys), limit) == (sorted(keys), 15)
    bounds = docs.find_bounds()
    assert (bounds.first, bounds.last, bounds.num_documents) == (min(keys), max(keys), 79)
    assert docs.count_without_key() == 3


def test_ranges_join_without_loss():
    docs = collection([{"idx": key} for key in (*range(0, 40, 3), 9, 9, 1000, 10**12)])
    for count in (1, 4, 5, 100):
        found, after = [], None
        while after != 10**12:
            end = docs.end_of_range(after, 10**12, count)
            found += [r["idx"] for r in docs.read_batch(after, end).records]
            after = end
        assert found == [*range(0, 40, 3), 1000, 10**12]


def test_the_first_of_doubles_is_taken():
    docs = collection([{"idx": 1, "a": 1}, {"idx": 2, "a": 2}, {"idx": 1, "a": 3}])
    batch = docs.read_batch(None, 5)
    assert [r["a"] for r in batch.records] == [1, 2]
    assert (batch.num_doubles, batch.doubles) == (1, [1])


def test_long_documents_end_a_batch(monkeypatch):
    monkeypatch.setattr("fairtale.data.documents.mongo_collections._BATCH_CHARS", 1000)
    docs = collection([{"idx": i, "filt_text": "x" * 400} for i in range(10)])
    assert len(docs.read_batch(None, 9).records) == 3
    assert read_all(docs, 9, 500) == (list(range(10)), 0)


def test_statistics(monkeypatch):
    monkeypatch.setattr("fairtale.data.documents.mongo_collections._BATCH_KEYS", 3)
    keys = [5, 6, 6, 6, 6, 6, 7, 9, 9, 12.5, 20]
    found = collection([{"idx": k} for k in keys] + [{"idx": "6"}, {}]).statistics()
    assert (found.num_documents, found.num_without) == (13, 2)
    assert (found.first, found.last) == (5, 20)
    assert (found.num_doubles, found.doubles) == (5, [6, 9])
    assert found.num_broken == 1
    assert found.gaps == [(7, 9), (9, 12.5), (12.5, 20)] and found.num_missing == 1 + 2 + 6
    assert collection([]).statistics().first is None


def test_no_document_has_a_number():
    docs = collection([{"filt_text": "a"}, {"idx": "1"}])
    with pytest.raises(UserError, match="c.json:docs: none of its 2 documents has a number in idx"):
        docs.find_bounds()
    assert collection([]).find_bounds() is None


def test_an_index_is_ensured_once_whatever_its_name():
    server = fake_server(docs=[{"idx": 1}])
    fake = server.fakes["docs"]
    fake.indexes = {"other": {"key": [("form", 1), ("idx", 1)]}}
    docs = IndexedCollection(server, "docs")
    docs.ensure_index()
    docs.ensure_index(unique=True)
    assert [index["key"] for index in fake.indexes.values()] == [
        [("form", 1), ("idx", 1)],
        [("idx", 1)],
    ]

"""Filling a collection: what is stored, and that a second import changes nothing."""

import json

import pytest
from pymongo import errors

from fairtale.data.documents.cleaning import CleaningRules
from fairtale.data.documents.mongo_import import Importer
from fairtale.data.documents.records import DocumentReport
from fairtale.data.documents.sources import SourceOptions, find_sources
from fairtale.errors import UserError
from tests.mongo_helpers import fake_server


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def fill(server, *paths, failures=(), **rules):
    report = DocumentReport()
    sources = find_sources(paths, SourceOptions(), report)
    importer = Importer(server, "docs", CleaningRules(**rules), report)
    num_before = importer.run(sources, lambda n: None)
    return importer.num_read, importer.num_written, num_before, report


WORKS = [{"id": "a", "text": "One  <i>two</i>."}, {"text": " "}, {"text": "Three.\r\nFour."}]


def test_documents_are_numbered_and_stored_raw_and_clean(tmp_path):
    server = fake_server(docs=[])
    path = write(tmp_path / "a.jsonl", *WORKS)
    assert fill(server, path)[:3] == (2, 2, 0)
    fake = server.fakes["docs"]
    assert fake.records == [
        {"idx": 0, "id": "a", "form": "One  <i>two</i>.", "filt_text": "One two."},
        {"idx": 1, "form": "Three.\r\nFour.", "filt_text": "Three.\nFour."},
    ]
    assert [i["unique"] for i in fake.indexes.values()] == [True]
    assert fill(server, path)[:3] == (2, 0, 2) and len(fake.records) == 2


def test_an_interrupted_import_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("fairtale.data.documents.mongo_import._BATCH_DOCUMENTS", 2)
    path = write(tmp_path / "a.jsonl", *({"text": f"work {n}"} for n in range(7)))
    whole = fake_server(docs=[])
    assert fill(whole, path)[:3] == (7, 7, 0)
    records = whole.fakes["docs"].records
    for kept in (records[:3], [records[n] for n in (0, 2, 3, 6)]):
        server = fake_server(docs=kept)
        assert fill(server, path)[:3] == (7, 7 - len(kept), len(kept))
        assert sorted(server.fakes["docs"].records, key=lambda r: r["idx"]) == records
    # a longer list of files begins with the same documents
    more = write(tmp_path / "b.jsonl", {"text": "later"})
    assert fill(whole, path, more)[:3] == (8, 1, 7)


def test_a_server_that_ends_in_the_middle_of_a_batch(tmp_path):
    server = fake_server(docs=[], wait=60.0)
    fake = server.fakes["docs"]
    insert, calls = fake.insert_many, []

    def end_once(records, ordered):
        calls.append(len(records))
        if len(calls) == 1:
            insert(records[:2], ordered)
            raise errors.AutoReconnect("gone")
        insert(records, ordered)

    fake.insert_many = end_once
    path = write(tmp_path / "a.jsonl", *({"text": f"work {n}"} for n in range(5)))
    assert fill(server, path)[0] == 5
    assert calls == [5, 3] and [r["idx"] for r in fake.records] == list(range(5))


def test_other_documents_are_not_replaced(tmp_path):
    server = fake_server(docs=[{"idx": 1, "form": "mine", "filt_text": "mine"}])
    path = write(tmp_path / "a.jsonl", *WORKS)
    with pytest.raises(UserError, match="c.json:docs: its document with idx 1 is not the one"):
        fill(server, path)
    assert len(server.fakes["docs"].records) == 1


def test_conversations_are_stored_as_q_and_a_and_not_mixed(tmp_path):
    server = fake_server(docs=[])
    talk = write(
        tmp_path / "talk.jsonl", {"q": "a\tb", "a": "c\n"}, {"id": "x", "q": "d", "a": "e"}
    )
    assert fill(server, talk)[0] == 2
    assert server.fakes["docs"].records == [
        {"idx": 0, "q": "a b", "a": "c"},
        {"idx": 1, "id": "x", "q": "d", "a": "e"},
    ]
    works = write(tmp_path / "works.jsonl", *WORKS)
    with pytest.raises(UserError, match="works.jsonl:1: works and conversations are mixed"):
        fill(fake_server(docs=[]), talk, works)


def test_a_document_longer_than_mongodb_takes_is_counted(tmp_path):
    server = fake_server(docs=[])
    long = {"id": "long", "text": "я" * 4_200_000}  # 8.4 MB, stored twice
    path = write(tmp_path / "a.jsonl", {"text": "first"}, long, {"text": "last"})
    num_read, _, _, report = fill(server, path)
    assert [r["idx"] for r in server.fakes["docs"].records] == [0, 1] and num_read == 2
    assert report.skipped == {"too long": 1} and "16 MiB" in report.places["too long"][0]

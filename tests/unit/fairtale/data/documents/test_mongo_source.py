"""Documents of a collection: text, conversations, names, and what is counted."""

import pytest

from fairtale.data.documents.cleaning import CleaningRules, read_documents
from fairtale.data.documents.fields import FieldNames
from fairtale.data.documents.mongo_source import MongoCollection
from fairtale.data.documents.records import DocumentReport
from fairtale.errors import UserError
from tests.mongo_helpers import fake_server


def read(records, fields=None, strict=False, rules=None, **options):
    report = DocumentReport(strict)
    options = {"markup": None, "max_chars": 1000, **options}
    source = MongoCollection(fake_server(docs=records), "docs", fields or FieldNames(), **options)
    return list(read_documents([source], rules or CleaningRules(), report, lambda n: None)), report


def test_documents_come_in_the_order_of_idx_with_their_names():
    records = [
        {"idx": 3, "form": "c", "filt_text": "third <b>is</b>\n\n clean"},
        {"idx": 1, "form": "a", "filt_text": "first", "id": "a", "work": "book"},
        {"idx": 2, "form": "b", "filt_text": "second", "id": 17},
    ]
    documents, report = read(records)
    assert [(d.name, d.text, d.group) for d in documents] == [
        ("a", "first", "book"),
        ("17", "second", "17"),
        ("docs/3", "third <b>is</b>\n\n clean", None),  # filtered already, so not changed
    ]
    assert [d.place for d in documents] == [f"c.json:docs:{n}" for n in (1, 2, 3)]
    assert report.num_kept == 3 and not report.skipped
    documents, _ = read(records, rules=CleaningRules(function="works"))
    assert documents[-1].text == "third is\nclean"
    documents, _ = read(records, FieldNames(text="form", id="filt_text"))
    assert [(d.name, d.text) for d in documents][0] == ("first", "a")


def test_conversations():
    documents, report = read(
        [
            {"idx": 0, "q": "How\n are\tyou?", "a": " Fine. "},
            {"idx": 1, "q": "Alone?", "a": "\u200b"},
            {"idx": 2, "q": "No answer?"},
            {"idx": 3, "q": "A number?", "a": 3},
        ]
    )
    assert [(d.text, d.is_dialog, d.group) for d in documents] == [
        ("How are you?\tFine.", True, None)
    ]
    assert report.skipped == {
        "empty question or answer": 1,
        "no such field: a": 1,
        "value that is not text (int), field a": 1,
    }


def test_everything_that_is_no_document_is_counted():
    records = [
        {"idx": 0, "filt_text": "good"},
        {"idx": 0, "filt_text": "the same number"},
        {"idx": 1, "form": "only raw"},
        {"idx": 2, "filt_text": None},
        {"idx": 3, "filt_text": " \n"},
        {"idx": 4, "filt_text": {"text": "deep"}},
        {"idx": 5, "filt_text": "x" * 20_000_000},
        {"idx": 6.5, "filt_text": "half"},
        {"idx": "7", "filt_text": "a text as number"},
        {"filt_text": "no number"},
        {"idx": 9, "filt_text": "good"},
        {"idx": 10, "filt_text": "last"},
    ]
    documents, report = read(records)
    assert [d.text for d in documents] == ["good", "last"]
    assert report.skipped == {
        "idx that an earlier document has": 1,
        "no such field: filt_text": 1,
        "empty": 2,
        "value that is not text (dict), field filt_text": 1,
        "too long": 1,
        "idx that is not a whole number": 1,
        "no number in idx": 2,
        "duplicate": 1,
    }
    assert report.places["too long"] == ["c.json:docs:5 (20,000,000 characters)"]
    for kind, place in (("too long", "c.json:docs:5"), ("no number in idx", "c.json:docs")):
        bad = [records[0], records[6] if kind == "too long" else records[9]]
        with pytest.raises(UserError, match=f"{place}.*: {kind}; --strict allows none"):
            read(bad, strict=True)
    with pytest.raises(UserError, match="c.json:docs:0: idx that an earlier document has"):
        read(records[:2], strict=True)


def test_a_field_that_is_named_must_be_there():
    records = [{"idx": 0, "filt_text": "a", "name": "n"}, {"idx": 1, "filt_text": "b"}]
    documents, report = read(records, FieldNames(id="name"))
    assert [d.name for d in documents] == ["n"] and report.skipped == {"no such field: name": 1}

"""Documents are cleaned, and every removal is counted and shown."""

import json

import pytest

from fairtale.data.documents.cleaning import CleaningRules, clean_document
from fairtale.data.documents.records import DocumentReport, RawDocument


def clean(text, markup="plain", is_file=True, keep=()):
    report = DocumentReport()
    raw = RawDocument("name", text, markup, "place", None, is_file)
    document = clean_document(raw, CleaningRules(frozenset(keep), 10_000), report)
    return document and document.text, report


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One.\r\n\r\n\r\nTwo.\rThree.\x85Four.\u2028Five.", "One.\nTwo.\nThree.\nFour.\nFive."),
        ("  a\t b \xa0 c.\u2003d  \n\n   \n e.", "a b c. d\ne."),
        ("so\xadft\u200b hy\x07phen\ufeff.", "soft hyphen."),
        ("a &amp; b <i>c</i>&#13;d.", "a & b c\nd."),
        ("R&amp;D &mdash; x.", "R&D — x."),
        ("&amp;lt;b> and <i>&amp;lt;</i>", "&lt;b> and &lt;"),
        ("emoji 👩‍👩‍👧 and ё́ stay.", "emoji 👩‍👩‍👧 and ё́ stay."),
    ],
)
def test_white_space_and_characters(text, expected):
    assert clean(text)[0] == expected


def test_every_removal_is_in_the_report():
    text = (
        "Title: T\nN. N.\n\nA  line[1] &amp; <b>more</b>.\n" + "Text. " * 200
        + "\n\xad1\nA note.\nLicense: CC BY\n"
    )  # fmt: skip
    cleaned, report = clean(text)
    assert cleaned == "A line & more.\n" + ("Text. " * 200).strip()
    assert report.amounts == {
        "tags removed": 2,
        "entities replaced": 1,
        "soft hyphens and zero-width spaces removed": 1,
        "lines with uneven white space": 1,
        "labelled header lines removed": 1,
        "lines of author and title removed": 1,
        "footer lines removed": 1,
        "notes removed": 2,
        "references to notes removed": 1,
    }
    assert report.removed_texts["notes removed"] == ["place: 1", "place: A note."]
    assert report.removed_chars["notes removed"] == 8
    report.num_kept = 1
    shown = "\n".join(report.lines())
    assert "notes removed: 2 (8 characters) in 1 works" in shown
    json.dumps(report.as_dict())


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("headers", "Title: T"),
        ("footers", "License: CC BY"),
        ("notes", "A note."),
    ],
)
def test_rules_can_be_left_out(rule, kept):
    text = "Title: T\nText. " + "Text. " * 200 + "\n1\nA note."
    text += "" if rule == "notes" else "\nLicense: CC BY"
    assert kept not in clean(text)[0] and kept in clean(text, keep=[rule])[0]


def test_a_licence_in_the_header_of_a_short_work_is_no_footer():
    assert clean("Title: T\nLicense: CC BY\n\nShort.\nText.")[0] == "Short.\nText."


def test_line_breaks_can_be_kept():
    line = "word " * 14
    text = "\n".join([line] * 20)
    assert clean(text)[0].count("\n") == 0
    assert clean(text, keep=["line-breaks"])[0].count("\n") == 19


def test_records_have_no_title_lines():
    assert clean("A Short Message\nText.", is_file=False)[0] == "A Short Message\nText."
    assert clean("A Short Message\nText.")[0] == "Text."


def test_damaged_markup_is_counted():
    text, report = clean("<FictionBook>", "fb2")
    assert text is None and list(report.skipped) == ["damaged markup"]


def test_headings_of_pages_and_of_markdown_are_titles():
    assert (
        clean("# Title\n\nText *one*.\n\n# Two\n\nMore.", "markdown")[0] == "Text one.\nTwo\nMore."
    )
    assert clean("<h1>Title</h1><p>A line\n<p>Text.", "html")[0] == "A line\nText."

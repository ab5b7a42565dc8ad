"""Long texts are cut at paragraphs, and nothing of them is lost."""

import io
import random

import pytest

from fairtale.data.story.books import cut_paragraphs, read_paragraphs
from fairtale.data.story.records import StoryReport

BOOK = """\
# Title: A Book

## Author: Nobody

-----

## CHAPTER I

One two three.
Four five.

> Six seven.

* * *

##

Eight nine.

## CHAPTER II
Ten.
"""


def paragraphs(text, report=None):
    data = text if isinstance(text, bytes) else text.encode()
    return list(read_paragraphs(io.BytesIO(data), "b.md", report or StoryReport(), 10_000))


def test_paragraphs_lines_and_sections():
    found = paragraphs(BOOK)
    assert [(line, text) for line, _, text in found] == [
        (9, "One two three. Four five."),
        (12, "Six seven."),
        (18, "Eight nine."),  # an empty heading is a page break, not a section
        (21, "Ten."),
    ]
    sections = [section for _, section, _ in found]
    assert sections[0] == sections[1] == sections[2] != sections[3]


def test_a_section_is_named_by_its_words_alone():
    alone = paragraphs("# Other book\n\n## I\n\nEight nine.\n\nMore.")
    assert {section for _, section, _ in alone} == {
        section for _, section, _ in paragraphs("Eight nine.\n\nSomething else.")
    }


def test_a_paragraph_with_a_broken_line_is_dropped_whole():
    report = StoryReport()
    found = paragraphs(b"Fine.\n\nGood.\n\xff\nGood too.\n\nFine again.", report)
    assert [text for _, _, text in found] == ["Fine.", "Fine again."]
    assert report.skipped == {"invalid UTF-8": 1}


@pytest.mark.parametrize("max_words", [1, 2, 5, 40])
def test_pieces_hold_all_words_in_order_and_respect_the_limit(max_words):
    draw = random.Random(max_words)

    def sentence():
        return " ".join(f"w{draw.randint(0, 99)}" for _ in range(draw.randint(1, 12))) + "."

    book = [
        (number, f"s{number // 7}", " ".join(sentence() for _ in range(draw.randint(1, 6))))
        for number in range(40)
    ]
    pieces = list(cut_paragraphs(book, max_words))
    assert max(len(text.split()) for _, _, text in pieces) <= max_words
    for section in {section for _, section, _ in book}:
        said = " ".join(text for _, name, text in book if name == section).split()
        kept = " ".join(text for _, name, text in pieces if name == section).split()
        assert kept == said
    assert [section for _, section, _ in pieces] == sorted(section for _, section, _ in pieces)


def test_cuts_fall_between_paragraphs_then_sentences_then_words():
    def cut(max_words, *texts):
        book = [(number, "s", text) for number, text in enumerate(texts)]
        return [text for _, _, text in cut_paragraphs(book, max_words)]

    assert cut(4, "a b c", "d", "e") == ["a b c d", "e"]
    assert cut(3, 'a b? "c d!" e') == ["a b?", '"c d!" e']
    assert cut(2, "a b c d e") == ["a b", "c d", "e"]
    assert cut(10, "a", "b") == ["a b"]

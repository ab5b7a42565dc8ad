"""Headers, footers and notes are found, and text that resembles them is not."""

import pytest

from fairtale.data.documents.metadata import (
    cut_gutenberg,
    is_labelled,
    is_title_like,
    remove_references,
    split_footer,
    split_header,
    split_notes,
)

BODY = ["Жил-был кот.", "— Мяу! — сказал он.", "Конец"]


@pytest.mark.parametrize(
    "line",
    ["Title: X", "## Author: N. N.", "**Автор:** N", "* Пэйринг и персонажи: A/B", "РЕДАКТОРЫ:",
     "Бета (редактор): M", "Year: 600 BC", "- _Rating_: PG"],
)  # fmt: skip
def test_labelled_lines(line):
    assert is_labelled(line)


@pytest.mark.parametrize(
    "line",
    ["He said: no", "Внимание: опасно", "http://x.y/z", "12:30", "Title", ": x", "",
     "The author of the book is: unknown", "Автор:Иванов"],
)  # fmt: skip
def test_lines_with_other_labels(line):
    assert not is_labelled(line)


@pytest.mark.parametrize(
    "line",
    ["Антон Чехов", "АГАФЬЯ", "ЗАПИСКИ МАРКЕРА.", "(СЦЕНКА)", "«СТРАСТИ-МОРДАСТИ»", "(1853-1855)",
     "1896", "Н. В. Гоголь", "Rip Van Winkle", "1905—1906 гг."],
)  # fmt: skip
def test_title_like_lines(line):
    assert is_title_like(line)


@pytest.mark.parametrize(
    "line",
    ["Девятый час утра.", "— Чаво?", "I", "Глава первая", "ЧАСТЬ ПЕРВАЯ.", "Chapter 1", "12",
     "Было четыре часа утра...", "а в ненастные дни", "Часто;", "— О-у-у", "***", "Д" * 81,
     "Prologue", "«Дудки», — говорит судьба:"],
)  # fmt: skip
def test_lines_of_text(line):
    assert not is_title_like(line)


def test_a_header_of_both_kinds():
    lines = ["Антон Чехов", "ГОСТЬ", "Жанры: юмор", "(СЦЕНКА)", *BODY]
    header = split_header(lines, None)
    assert header.titles == ["Антон Чехов", "ГОСТЬ", "(СЦЕНКА)"]
    assert header.labelled == ["Жанры: юмор"] and header.rest == BODY


def test_markup_knows_its_titles():
    lines = ["Rip Van Winkle", "By Woden, God of Saxons", "Text."]
    assert split_header(lines, {"Rip Van Winkle"}).rest == lines[1:]
    assert split_header(lines, set()).rest == lines


def test_verse_and_lists_are_no_header():
    verse = ["У лукоморья дуб зеленый", "Златая цепь на дубе том", "И днем и ночью кот ученый",
             "Все ходит по цепи кругом", "Идет направо."]  # fmt: skip
    assert split_header(verse, None).rest == verse
    assert split_header(["Автор: Пушкин", *verse], None).rest == verse
    assert split_header(["LIST"] * 12 + BODY, None).rest == ["LIST"] * 12 + BODY
    only = ["Title", "Author"]
    assert split_header(only, None).rest == only  # nothing would be left
    broken = ["A tall man", "I live in a village in", "the mountains."]
    assert split_header(broken, None).rest == broken[1:]


@pytest.mark.parametrize(
    "footer",
    [
        ["* License: [CC-BY]", "* Text: N. N.", "* Illustration: M. M.", "* Language: en"],
        ["© 1999 N. N.", "**License**: CC BY", "* Text: N. N.", "The story is about a cat", "."],
        ["© 1999 N. N.", "https://example.org/work/1"],
        ["Источник: библиотека", "Все права защищены"],
        ["1896"],
        ["1853-1855", "Creative Commons BY 4.0"],
    ],
)
def test_footers(footer):
    assert split_footer(BODY + footer) == (BODY, footer)


@pytest.mark.parametrize(
    "end",
    [["Text: I love you."], ["Автор: сам."], ["В 1896 году."], ["Она лицензию не купила. " * 20]],
)
def test_ends_that_are_text(end):
    assert split_footer(BODY + end) == (BODY + end, [])


def test_project_gutenberg():
    before = ["The Project Gutenberg eBook of X", "*** START OF THE PROJECT GUTENBERG EBOOK X ***"]
    after = ["*** END OF THE PROJECT GUTENBERG EBOOK X ***", "Updated editions will replace it"]
    assert cut_gutenberg(before + BODY + after) == (BODY, before + after)
    assert cut_gutenberg(BODY) == (BODY, [])


# ---------------------------------------------------------------------------- notes

LONG = ["Текст главы. " * 40] * 4


def test_notes_at_the_end():
    notes = ["1", "драгоценности (франц.).", "2", "большой круг (франц.)."]
    assert split_notes(LONG + notes) == (LONG, notes)
    with_heading = ["Примечания", *notes, "Комментарии", "1", "Одно.", "Второе.", "2"]
    assert split_notes(LONG + with_heading) == (LONG, with_heading)


@pytest.mark.parametrize(
    "lines",
    [
        ["1", *LONG, "2", *LONG, "3", *LONG],  # chapters
        [*LONG, "2", "нет первого", "3", "нет"],
        [*LONG, "1", "2", "3"],  # numbers only
        [*LONG, "1", "Глава. " * 200, "2", "Глава. " * 200],
        ["Сто слов", "1", "Короткая.", "2", "Короткая."],  # chapters of a short work
        LONG,
    ],
)
def test_numbers_that_are_no_notes(lines):
    assert split_notes(lines) == (lines, [])


def test_notes_after_chapters_with_numbers():
    chapters = ["1", *LONG, "2", *LONG]
    assert split_notes([*chapters, "1", "Нота."]) == (chapters, ["1", "Нота."])


def test_references_go_with_their_notes():
    lines = ["Eh bien[1], mon prince[12]. [3] [sic]"]
    found, removed = remove_references(lines, ["1", "Ну.", "12", "Князь."])
    assert found == ["Eh bien, mon prince. [3] [sic]"] and removed == ["[1]", "[12]"]
    assert remove_references(lines, []) == (lines, [])

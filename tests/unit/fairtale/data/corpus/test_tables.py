"""Tables: a fault costs its own row, and a header is recognised by its names and rows."""

import io

import pytest

from fairtale.data.corpus.heads import look
from fairtale.data.corpus.tables import (
    BAD_ROW,
    Dialect,
    find_table,
    is_header_row,
    one_column,
    read_rows,
)
from fairtale.data.story.records import StoryReport


def rows_of(data, dialect):
    report = StoryReport()
    rows = list(read_rows(io.BytesIO(data), "x.csv", report, dialect))
    return [row.cells for row in rows], [row.place for row in rows], report


def head_of(text, name="x.csv"):
    return look(io.BytesIO(text.encode()), name)[0]


@pytest.mark.parametrize("at", [0, 1, 499, 999])
def test_an_open_quotation_mark_costs_one_row(at):
    lines = [f'q{i},"answer {i}"' if i % 2 else f"q{i},answer {i}" for i in range(1000)]
    lines[at] = f'"open {at},and more'
    cells, places, report = rows_of("\n".join(lines).encode(), Dialect(","))
    assert len(cells) == 999 and report.skipped == {BAD_ROW: 1}
    assert report.places[BAD_ROW] == [f"x.csv:{at + 1}"]
    assert report.lost_bytes[BAD_ROW] == len(lines[at]) + 1
    assert [f"q{i}" for i in range(1000) if i != at] == [row[0] for row in cells]
    assert places[-1] == f"x.csv:{1000 - (at == 999)}"


def test_quoted_cells_may_hold_lines_and_delimiters():
    data = b'a;"two\nlines; and ""quotes"""\n\n"x";y\n'
    cells, places, report = rows_of(data, Dialect(";"))
    assert cells == [["a", 'two\nlines; and "quotes"'], ["x", "y"]]
    assert places == ["x.csv:1", "x.csv:4"] and not report.skipped
    assert rows_of(b'a,"say \\"hi\\""\n', Dialect(",", backslash=True))[0] == [["a", 'say "hi"']]
    assert rows_of(b'a\t"b\nc\td\n', Dialect("\t", quoted=False))[0] == [["a", '"b'], ["c", "d"]]


def test_bytes_that_are_not_utf8_cost_their_row():
    cells, _, report = rows_of(b'a,b\nc,caf\xe9\n"d\n\xe9",e\nf,g\n', Dialect(","))
    assert cells == [["a", "b"], ["f", "g"]]
    assert report.skipped == {"invalid UTF-8": 2} and report.lost_lines["invalid UTF-8"] == 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_header_is_found(delimiter):
    lines = [["", "question", "answer"], *([str(i), f"Why, {i}?", "So; yes"] for i in range(9))]
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines)
    table = find_table(head_of(text))
    assert table.columns == ["", "question", "answer"] and table.dialect.delimiter == delimiter
    assert table.rows[0] == ["0", "Why, 0?", "So; yes"]


@pytest.mark.parametrize(
    "text",
    [
        "One day, a fox came.\nIt was red.\n",
        "1,2,3\n4,5,6\n",
        "a,a\nb,c\n",
        "Tom, who was old, sat.\nHe saw, and slept.\nThen, again, he rose, and, well, went.\n" * 9,
    ],
)
def test_sentences_are_no_header(text):
    assert find_table(head_of(text)) is None


def test_one_column_and_names_above_sentences():
    assert one_column(head_of('text\n"One, two\n\nthree."\n"Four."\n')).columns == ["text"]
    sentence = "A whole sentence that is much too long to be a name of anything.\n"
    assert one_column(head_of(sentence)) is None
    sentences = [["How are you?", "Fine, I am."]] * 5
    assert is_header_row(["utterance1", "utterance2"], sentences)
    assert not is_header_row(["Go.", "Va !"], sentences)
    assert not is_header_row(["Hello", "you"], [["Yes", "no"]] * 5)

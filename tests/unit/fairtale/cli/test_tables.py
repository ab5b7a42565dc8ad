"""Tables of formatted cells."""

from fairtale.cli.tables import table

ROWS = [("a", "1.50", "12"), ("longer", "10.25", "1e3")]


def test_text():
    lines = table(("name", "BLEU", "n"), ROWS, as_markdown=False).splitlines()
    assert [line.split() for line in lines] == [["name", "BLEU", "n"], *map(list, ROWS)]
    assert len({len(line) for line in lines}) == 1  # figures end in one column


def test_markdown():
    heads, line, *rows = table(("name", "BLEU", "n"), ROWS, as_markdown=True).splitlines()
    assert [cell.strip() for cell in heads.split("|")[1:-1]] == ["name", "BLEU", "n"]
    assert [cell.strip("-") for cell in line.split("|")[1:-1]] == [":", ":", ":"]
    assert [tuple(cell.strip() for cell in row.split("|")[1:-1]) for row in rows] == ROWS

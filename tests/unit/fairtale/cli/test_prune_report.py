"""Files and the table of `fairtale prune-report`."""

from argparse import Namespace

import pytest

from fairtale.cli.prune_report import _figure_path, _table
from fairtale.errors import UserError
from fairtale.pruning.comparison import Entrant


@pytest.mark.parametrize(
    "out, figure, message",
    [
        (
            "rep.png",
            None,
            "rep.png: the figure would have the same name; .* give --figure",
        ),
        ("rep.md", "./rep.md", "--output rep.md: the figure would have the same name"),
        ("full.pt", None, "--output full.pt: would replace an input file"),
        ("rep.md", "refs.ru", "--figure refs.ru: would replace an input file"),
    ],
)
def test_no_file_replaces_another(out, figure, message):
    args = Namespace(output=out, figure=figure, ref="refs.ru")
    with pytest.raises(UserError, match=message):
        _figure_path(args, ["full.pt", "half.pt"])


def test_the_figure_is_beside_the_report():
    args = Namespace(output="out/rep.md", figure=None, ref=None)
    assert _figure_path(args, ["full.pt"]) == "out/rep.png"


def test_the_table_is_markdown_with_the_digits_that_were_asked_for():
    full = Entrant("full", "full.pt", None, None, {"encoder": 8, "cross": 8}, 1024, 8090000, 71.9)
    half = Entrant("1.50", "half.pt", None, None, {"encoder": 3}, 512, 7500000, 30.0, 3.3, 19.4)
    full.seconds, half.seconds = [4.0, 2.0, 2.0], [2.0, 1.0, 2.0]
    full.even_seconds, half.even_seconds = [2.0, 2.0, 2.0], [2.0, 1.0, 1.6]
    full.written, half.written = 1200, 900
    lines = _table([full, half], num_sentences=64, length=24)
    assert all(line.startswith("|") and line.endswith("|") for line in lines)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:5] == ["model", "encoder heads", "decoder heads", "cross heads", "FFN units"]
    assert [set(rule) for rule in cells[1]] == [{":", "-"}] * 14
    assert cells[1][0].startswith(":") and all(rule.endswith(":") for rule in cells[1][1:])
    assert cells[2][1:7] == ["8", "0", "8", "1,024", "8,090,000", "71.9"]
    assert cells[0][9:] == [
        *("tokens written", "sentences/s", "faster by"),
        *("sentences/s at 24 tokens", "faster at 24 tokens by"),
    ]
    assert cells[2][7:] == ["0.00", "0.00", "1,200", "32.0", "", "32.0", ""]
    assert cells[3][0] == "1.50"
    assert cells[3][7:] == ["3.30", "19.40", "900", "32.0", "2.00", "40.0", "1.25"]

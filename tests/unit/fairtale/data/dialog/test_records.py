"""The report of reading dialogs."""

import pytest

from fairtale.data.dialog.records import DialogReport
from fairtale.errors import UserError


def test_strict_refuses_damage_and_no_limits():
    report = DialogReport(strict=True)
    report.leave_out("empty query", "f:1")
    with pytest.raises(UserError, match="^f:2: not a JSON object; --strict allows none"):
        report.skip("not a JSON object", "f:2")


def test_the_report_names_places():
    report = DialogReport()
    report.files = {"lines": [("a.txt", "plain text"), ("b.txt", "plain text")]}
    for line in range(1, 6):
        report.leave_out("empty query", f"a.txt:{line}")
    report.mend("turns without words dropped", "a.txt:9", 4)
    assert list(report.lines()) == [
        "read as lines (plain text): a.txt and 1 more",
        "dialogs kept: 0, left out: 5",
        "left out, empty query: 5 (first: a.txt:1, a.txt:2, a.txt:3)",
        "turns without words dropped: 4 (first: a.txt:9)",
    ]
    assert report.as_dict()["left_out"] == {"empty query": 5}
    assert report.as_dict()["mended"] == {"turns without words dropped": 4}

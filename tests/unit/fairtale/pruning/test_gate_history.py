"""``gates.jsonl``: records are read as written, also after a killed and resumed training."""

import pytest

from fairtale.errors import UserError
from fairtale.pruning.gate_history import append_record, read_history


def _record(update, **rows):
    rows = rows or {"encoder.0": [0.5, 1.0]}
    return {"update": update, "open_probability": {k.replace("_", "."): v for k, v in rows.items()}}


def _write(path, *records):
    for record in records:
        append_record(path, record)


def test_later_records_replace_those_of_repeated_updates(tmp_path):
    path = tmp_path / "run" / "gates.jsonl"
    _write(path, *map(_record, (0, 10, 20, 30)))
    _write(path, *map(_record, (20, 40)))
    assert [record["update"] for record in read_history(path)] == [0, 10, 20, 40]


def test_records_of_another_model_in_the_same_folder_are_dropped(tmp_path):
    path = tmp_path / "gates.jsonl"
    _write(path, _record(0), _record(10))
    _write(path, _record(30, encoder_0=[1.0, 1.0, 1.0]))
    assert [record["update"] for record in read_history(path)] == [30]


def test_a_last_line_that_was_cut_is_passed_over(tmp_path):
    path = tmp_path / "gates.jsonl"
    _write(path, _record(0), _record(10))
    path.write_text(path.read_text() + '{"update": 20, "open_pr')
    assert [record["update"] for record in read_history(path)] == [0, 10]


def test_a_run_that_goes_on_after_a_kill_cuts_the_incomplete_line(tmp_path):
    path = tmp_path / "gates.jsonl"
    _write(path, _record(0), _record(10))
    path.write_text(path.read_text() + '{"update": 20, "open_pr')
    _write(path, _record(20), _record(30))
    assert [record["update"] for record in read_history(path)] == [0, 10, 20, 30]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "contains no records"),
        ("[1, 2]\n{}\n", "line 1: not a record of gates"),
        ('{"update": 1}\n', "line 1: not a record of gates"),
        ("\x00\xff\n{}\n", "line 1: not a record"),
    ],
)
def test_what_is_no_history(tmp_path, text, message):
    path = tmp_path / "gates.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_history(path)
    with pytest.raises(UserError, match="no such file; training with --criterion l0_gated"):
        read_history(tmp_path / "missing")

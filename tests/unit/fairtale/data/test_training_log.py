"""Curves are read from both of fairseq's log formats, resumed or not."""

import pytest

from fairtale.data.training_log import read_log
from fairtale.errors import UserError

STAMP = "2026-01-01 00:00:00 | INFO |"
JSON = f"""\
{STAMP} fairseq_cli.train | {{'_name': None, 'common': ...}}
{STAMP} train_inner | {{"epoch": 1, "update": 0.5, "loss": "9.5", "lr": "0.1", "num_updates": "10"}}
{STAMP} valid | {{"epoch": 1, "valid_loss": "9", "valid_num_updates": "10", "valid_best_loss": "9"}}
{STAMP} sample_log | sample 0 @ 10 updates: {{"loss": no number at all
{STAMP} train_inner | {{"epoch": 1, "update": 1, "loss": "nan", "lr": "0.1", "num_updates": "20"}}
{STAMP} train | {{"epoch": 1, "train_loss": "9.2", "train_num_updates": "20"}}
{STAMP} valid1 | {{"epoch": 1, "valid1_loss": "7", "valid1_num_updates": "20"}}
"""
SIMPLE = f"""\
{STAMP} train_inner | epoch 001:     10 / 20 loss=9.5, lr=0.1, num_updates=10, wall=3
{STAMP} valid | epoch 001 | valid on 'valid' subset | loss 9 | num_updates 10 | best_loss 9
{STAMP} train_inner | epoch 001:     20 / 20 loss=nan, lr=0.1, num_updates=20, wall=6
{STAMP} train | epoch 001 | loss 9.2 | num_updates 20
{STAMP} valid | epoch 001 | valid on 'valid1' subset | loss 7 | num_updates 20
"""


def curves(tmp_path, text):
    path = tmp_path / "train.log"
    path.write_text(text, encoding="utf-8")
    return read_log(str(path))


@pytest.mark.parametrize("text", [JSON, SIMPLE, JSON.replace(f"{STAMP} train_inner | ", "")])
def test_both_formats(tmp_path, text):
    found = curves(tmp_path, text)
    assert found["train", "loss"] == [(10, 9.5)]  # the NaN is no point
    assert found["train", "lr"] == [(10, 0.1), (20, 0.1)]
    assert found["valid", "loss"] == [(10, 9.0)]
    assert found["valid", "best_loss"] == [(10, 9.0)]
    assert found["valid1", "loss"] == [(20, 7.0)]


def test_ends_of_epochs_serve_where_nothing_else_was_logged(tmp_path):
    for text in (JSON, SIMPLE):
        kept = [line for line in text.splitlines() if "train_inner" not in line]
        assert curves(tmp_path, "\n".join(kept))["train", "loss"] == [(20, 9.2)]


def test_a_resumed_run_is_one_curve(tmp_path):
    def line(update, loss):
        return f'{STAMP} train_inner | {{"epoch": 1, "loss": "{loss}", "num_updates": "{update}"}}'

    first = [line(10, 9), line(20, 8), line(30, 7)]
    resumed = [line(20, 6), line(30, 5), line(40, 4)]
    found = curves(tmp_path, "\n".join(first + resumed))
    assert found["train", "loss"] == [(10, 9.0), (20, 6.0), (30, 5.0), (40, 4.0)]


def test_a_log_without_numbers_is_an_error(tmp_path):
    with pytest.raises(UserError, match="train.log: no training statistics"):
        curves(tmp_path, f"{STAMP} fairseq_cli.train | hello\n{{}}\n")
    with pytest.raises(UserError, match="nowhere: no such log file"):
        read_log(str(tmp_path / "nowhere"))

"""fairtale.data.tuning_runs and the verb compare-finetuning: tables from logs of trainings."""

import json
from pathlib import Path

import pytest

from fairtale.cli.main import main
from fairtale.data.tuning_runs import Setting, mean_and_spread, read_run
from fairtale.errors import UserError

LINE = "2026-01-01 00:00:00 | INFO | {} | {}\n"


def write_run(folder: Path, ppl: float, updates: int = 40, trained: int = 1000) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for done in (updates // 2, updates):
        inner = {"epoch": 1, "num_updates": str(done), "loss": "5.1", "train_wall": "2"}
        lines.append(LINE.format("train_inner", json.dumps(inner)))
        valid = {
            "epoch": 1,
            "valid_ppl": str(ppl + updates - done),
            "valid_nll_loss": "4.9",
            "valid_ppl_word": str(10 * ppl),
            "valid_bpb": "1.2345",
            "valid_num_updates": str(done),
            "valid_trained_params": str(trained),
            "valid_peak_mib": "512",
        }
        lines.append(LINE.format("valid", json.dumps(valid)))
    (folder / "train.log").write_text("".join(lines))
    return folder


def as_it_is(folder: Path) -> Path:
    path = folder / "as_it_is.log"
    stats = "valid on 'valid' subset | loss 5 | nll_loss 5 | bpb 1.5 | ppl 32 | wps 0 | wpb 100"
    path.write_text(LINE.format("valid", stats))
    return path


def test_the_last_validation_and_the_cost_are_read(tmp_path: Path) -> None:
    run = read_run(str(write_run(tmp_path / "a", 30.5)))
    assert (run.ppl, run.ppl_word, run.bpb) == (30.5, 305.0, 1.2345)
    assert (run.updates, run.trained_params, run.seconds, run.peak_mib) == (40, 1000, 4.0, 512)


def test_a_model_as_it_is_has_no_cost(tmp_path: Path) -> None:
    run = read_run(str(as_it_is(tmp_path)))
    assert (run.ppl, run.updates, run.trained_params) == (32.0, 0, 0)
    assert run.seconds is None and run.peak_mib is None and run.ppl_word is None


def test_the_table_has_means_and_spreads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_run(tmp_path / f"all-{seed}", 27 + seed)) for seed in (1, 2, 3)]
    figure = tmp_path / "table.png"
    words = ["--setting", "as it is", str(as_it_is(tmp_path)), "--setting", "all", *runs]
    assert main(["compare-finetuning", *words, "--figure", str(figure)]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert cells["as it is"] == ["1", "32.00", "-", "1.5000", "0", "-", "-"]
    assert cells["all"][:3] == ["3", "29.00 ± 1.00", "290.0 ± 10.0"]
    assert cells["all"][4:] == ["1,000", "4 ± 0", "512 ± 0"]
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_trainings_of_other_lengths_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write_run(tmp_path / "a", 30), write_run(tmp_path / "b", 29, updates=20)
    output = tmp_path / "table.md"
    words = ["--setting", "a", str(a), "--setting", "b", str(b), "--output", str(output)]
    assert main(["compare-finetuning", *words]) == 2
    assert "after 20 updates" in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--setting", "a"], "at least one run"),
        (["--setting", "a", "A", "--setting", "a", "B"], "names must be different"),
        (["--setting", "a", "A", "A"], "named twice"),
        (["--setting", "a", "C"], "no such log"),
        (["--setting", "a", "A", "B"], "train 1000 and 2000 parameters"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "A", 30)
    write_run(tmp_path / "B", 30, trained=2000)
    assert main(["compare-finetuning", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_log_without_perplexity_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text(LINE.format("valid", "valid on 'valid' subset | loss 5"))
    with pytest.raises(UserError, match="no ppl"):
        read_run(str(path))


def test_spread_of_one_value_is_not_shown() -> None:
    assert mean_and_spread([2.0], 1) == "2.0" and mean_and_spread([], 1) == "-"
    assert Setting("a", ()).values("ppl") == []

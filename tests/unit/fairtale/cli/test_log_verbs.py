"""`fairtale log outputs | validation | progress`, and the tables made from logs."""

import io
import subprocess
import sys

import pytest

from fairtale.cli.log_progress import describe
from fairtale.cli.main import run_verb
from fairtale.errors import UserError
from tests.table_helpers import cells

STAMP = "2026-01-01 00:00:00 | INFO |"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -------------------------------------------------------------------------------- outputs


def test_a_blank_line_stays_blank(folder, capfdbinary):
    """The output for a blank input is blank, whatever the model generates."""
    log = "INFO | D-1\nS-0\ta b\nH-0\t-1\tx\nD-0\t-1\tx y\tz\nS-1\t\nD-1\t-2\tinvented\n"
    (folder / "log").write_text(log + "S-10\tc\nD-10\t-1\t\n")
    run_verb(["log", "outputs", "log", "--keep-blank"])
    assert capfdbinary.readouterr().out == b"x y\tz\n\n\n"
    run_verb(["log", "outputs", "log", "--output", "deep/text"])
    assert (folder / "deep" / "text").read_bytes() == b"x y\tz\ninvented\n\n"


def test_line_breaks_are_kept_or_counted(folder, capfd, caplog):
    (folder / "log").write_text("D-0\t-1\tа\n\nb\nP-0\t-1.0\nD-1\t-1\tc\nP-1\t-1.0\n")
    with caplog.at_level("INFO"):
        run_verb(["log", "outputs", "log"])
    assert capfd.readouterr().out == "а  b\nc\n"
    assert "line breaks written as spaces: 2 (--json-lines keeps them)" in caplog.text
    run_verb(["log", "outputs", "log", "--json-lines"])
    assert capfd.readouterr().out == '{"text": "а\\n\\nb"}\n{"text": "c"}\n'


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "D-0\t-1\tx\nD-2\t-1\ty\n",
            "2 translations of 3 lines: line 2 has none; if it is too long",
        ),
        ("D-0\t-1\tx\nD-0\t-1\ty\nD-1\t-1\tx\nD-2\t-1\tx\n", "4 translations of 3 lines; generate"),
        ("D-0\t-1\tx\nD-0\t-1\ty\nD-1\t-1\tx\n", "3 translations of 3 lines; generate them"),
    ],
)
def test_no_line_is_lost(folder, log, message):
    (folder / "log").write_text(log)
    (folder / "input").write_bytes(b"a\rb\n\nc")  # a carriage return ends no line
    with pytest.raises(UserError, match=message):
        run_verb(["log", "outputs", "log", "--lines-of", "input", "--output", "text"])
    assert not (folder / "text").exists()


def test_samples_of_a_prompt_that_was_given_several_times(folder):
    """Each prompt on two lines, two hypotheses each, of which three are wanted."""
    rows = [f"S-{n}\t▁p{n // 2}\nH-{n}\t-1\t{n}a\nH-{n}\t-2\t{n}b\n" for n in range(4)]
    (folder / "log").write_text("".join(rows), encoding="utf-8")
    words = ["--continued", "--inputs-per-prompt", "2", "--quantity", "3", "--output", "pieces"]
    run_verb(["log", "outputs", "log", *words])
    assert (folder / "pieces").read_text(encoding="utf-8").splitlines() == [
        *("▁p0 0a", "▁p0 0b", "▁p0 1a"),
        *("▁p1 2a", "▁p1 2b", "▁p1 3a"),
    ]


# ----------------------------------------------------------------------------- validation

VALIDATION = (
    f"{STAMP} fairseq_cli.validate | loading model(s) from x.pt\n"
    f"{STAMP} fairtale.data.story.dataset | test: 13 stories, 200 tokens; left out as empty: 0\n"
    f"{STAMP} test | valid on 'test' subset | loss 5.5 | nll_loss 5.123 | ppl 34.85 | bpb 2.1\n"
)


def test_what_a_validation_has_found(folder, capsys, monkeypatch):
    (folder / "log").write_text(VALIDATION)
    expected = "".join(VALIDATION.splitlines(keepends=True)[1:])
    run_verb(["log", "validation", "log"])
    assert capsys.readouterr().out == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(VALIDATION))
    run_verb(["log", "validation"])
    assert capsys.readouterr().out == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("nothing\n"))
    with pytest.raises(UserError, match="no validation in this log"):
        run_verb(["log", "validation"])


# ------------------------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            f'{STAMP} train_inner | {{"epoch": 1, "ppl": "1005.32", "num_updates": "20"}}',
            "update 20, perplexity 1005.32",
        ),
        (
            f'{STAMP} valid | {{"epoch": 1, "valid_ppl": "4.1", "valid_num_updates": "200"}}',
            "update 200, perplexity of held-out text 4.1",
        ),
        (f'{STAMP} train | {{"train_ppl": "9.1", "train_num_updates": "20"}}', None),
        (
            f"{STAMP} sample_log | sample 0 @ 200 updates: Once upon| a time | x",
            "  a sample: Once upon a time | x",
        ),
        (f"{STAMP} sample_log | sample 1 @ 200 updates: One day| y", None),
        ("RuntimeError: out of memory", "RuntimeError: out of memory"),
        ("error: no such file", "error: no such file"),
        (f"{STAMP} fairseq_cli.train | begin training", None),
    ],
)
def test_how_a_training_gets_on(line, told):
    assert describe(line + "\n") == told


# --------------------------------------------------------------------------------- tables


def test_dialog_models_in_one_table(folder, capsys):
    (folder / "ref").write_text("hello\thow are you\ti am fine today\nbye\tsee you soon\n")
    for name, replies in (("gpt", ("i am fine today", "see you")), ("nat", ("", "see you soon"))):
        rows = [f"S-{n}\tx\nH-{n}\t-1\tp\nD-{n}\t-1\t{text}\n" for n, text in enumerate(replies)]
        (folder / f"{name}.out").write_text("".join(rows))
    (folder / "gpt.log").write_text(VALIDATION)
    models = ["--model", "gpt", "gpt.out", "gpt.log", "--model", "nat", "nat.out", "-"]
    run_verb(["compare-dialogs", "ref", "--subset", "test", *models])
    lines = capsys.readouterr().out.splitlines()
    heads, _, first, second = map(cells, lines[:4])
    names = ["model", "bits/token", "BLEU", "chrF", "distinct-1", "distinct-2", "length", "F1"]
    assert heads == names
    assert first[:2] == ["gpt", "5.123"] and second[:2] == ["nat", "-"]
    assert first[-2:] == ["3.00", "90.00"]  # words, and F1 of 1 and 0.8
    assert lines[4] == "2 dialogs, empty replies: gpt 0, nat 1" and lines[5].startswith(
        "BLEU|nrefs:1"
    )
    run_verb(["score-dialog", "gpt.out", "ref", "--table"])
    row = cells(capsys.readouterr().out.splitlines()[2])
    assert row[0] == "first" and row[1:] == first[2:]
    with pytest.raises(UserError, match="gpt.log: no validation of valid in it"):
        run_verb(["compare-dialogs", "ref", "--subset", "valid", *models])
    (folder / "ref").write_text("only one\n")
    with pytest.raises(UserError, match="gpt.out has replies to 2 dialogs, ref has 1 references"):
        run_verb(["compare-dialogs", "ref", *models])


def test_translations_are_scored_as_by_sacrebleu(folder, capsys):
    ref = ["The cat sees the dog.", "A boy hears it , doesn't he? ", "Nothing"]
    hyp = ["The cat sees a dog.", "The boy hears it, doesn't he?\t", "Nothing"]
    for name, lines in (("ref", ref), ("hyp", hyp)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    run_verb(["score-translation", "--set", "news", "hyp", "ref", "--settings", "beam 4"])
    table = capsys.readouterr().out.splitlines()
    command = ["-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "-w", "2", "-f", "text"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    (name, bleu), (other, chrf) = (
        line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line
    )
    assert cells(table[0]) == ["set", "sentences", "BLEU", "chrF2"]
    assert cells(table[2]) == ["news", "3", bleu.split()[0], chrf.split()[0]]
    assert table[3:] == ["", f"beam 4; {name.strip()} {other.strip()}"]
    (folder / "hyp").write_text("x\n")
    with pytest.raises(UserError, match="hyp has 1 lines, ref has 3"):
        run_verb(["score-translation", "--set", "news", "hyp", "ref"])

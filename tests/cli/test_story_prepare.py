"""The story experiment's prepare.sh: its data appear complete or not at all."""

import json
import os
import signal
import subprocess
import time

import pytest
import sentencepiece
from fairseq.data import Dictionary, data_utils

from tests.cli.fairtale_command import ROOT, assert_user_error, script
from tests.cli.script_stubs import STORIES, run_with, stub, with_stubs, write_shard

PREPARE = "story_tinystories/prepare.sh"

OPTIONS = ("--vocab-size", "330", "--valid", "0.1", "--workers", "2")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with shards/ and db/, and the output of prepare.sh."""
    folder = tmp_path_factory.mktemp("prepared with spaces")
    write_shard(folder / "shards" / "data00.json", STORIES[:200])
    write_shard(folder / "shards" / "data01.json", STORIES[200:])
    done = script(PREPARE, "--source", "shards", "--data-bin", "out/db", *OPTIONS, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_prepare_makes_data_that_fairseq_reads(prepared):
    folder, done = prepared
    data = folder / "out" / "db"
    assert os.listdir(folder / "out") == ["db"]  # nothing left beside it
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert len(dictionary) == 330
    processor = sentencepiece.SentencePieceProcessor(str(data / "sentencepiece.bpe.model"))
    texts = []
    for subset in ("train", "valid", "test"):
        rows = data_utils.load_indexed_dataset(str(data / subset), dictionary)
        decoded = [processor.decode([dictionary[token] for token in row[:-1]]) for row in rows]
        assert all(row[-1] == dictionary.eos() for row in rows)
        assert f"{subset}.txt: {len(rows)} sents" in done.stdout
        if subset != "train":
            kept = (data / "text" / f"{subset}.txt").read_text().splitlines()
            assert kept == decoded and 10 < len(kept) < 60
        texts += decoded
    assert sorted(texts) == sorted(" ".join(story.split()) for story in STORIES)
    assert json.loads((data / "text" / "report.json").read_text())["kept"] == 300


def test_prepare_again_does_nothing_or_says_why_not(prepared):
    folder, _ = prepared

    def again(*options, data_bin="out/db"):
        return script(PREPARE, "--source", "shards", "--data-bin", data_bin, *options, cwd=folder)

    before = (folder / "out" / "db" / "train.bin").stat().st_mtime_ns
    done = again(*OPTIONS, "--workers", "1")
    assert done.returncode == 0 and "is ready (made before" in done.stderr, done.stderr
    done = again(*OPTIONS, "--seed", "2", "--dedupe")
    assert done.returncode == 2
    assert "error: out/db was made with other settings" in done.stderr
    assert "it has:     seed 1" in done.stderr and "asked for:  seed 2" in done.stderr
    assert "asked for:  options --dedupe" in done.stderr and "vocab" not in done.stderr
    shard = folder / "shards" / "data01.json"
    text = shard.read_text()
    shard.write_text(text + "\n")
    assert "asked for:  source" in again(*OPTIONS).stderr
    shard.write_text(text)
    assert again(*OPTIONS).returncode == 0
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").write_text("x")
    assert_user_error(again(*OPTIONS, data_bin="mine"), "mine exists", "did not make it")
    assert (folder / "out" / "db" / "train.bin").stat().st_mtime_ns == before


def test_a_truncated_shard_leaves_nothing(tmp_path):
    shard = write_shard(tmp_path / "shards" / "data00.json")
    shard.write_text(shard.read_text()[:5000])
    done = script(PREPARE, "--source", "shards", "--data-bin", "out/db", *OPTIONS, cwd=tmp_path)
    assert_user_error(done, "data00.json", "truncated", "character")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--source", "nowhere"], ["--source nowhere"]),
        (["--source"], ["--source: expected one argument"]),
        (["--sauce", "x"], ["unrecognized arguments: --sauce"]),
        (["--source", "shards", "--valid", "many"], ["--valid: invalid", "'many'"]),
        (["--source", "shards", "--vocab-size", "90000"], ["--vocab-size 90000", "at most"]),
        (["--source", "shards", "--valid", "0.7"], ["--valid 0.7 --test 0.7", "below 1"]),
    ],
)
def test_bad_options_of_prepare(tmp_path, options, parts):
    write_shard(tmp_path / "shards" / "data00.json")
    done = script(PREPARE, "--data-bin", "out/db", *options, cwd=tmp_path)
    assert_user_error(done, *parts)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ("echo 'no space left on device'; exit 1", "fairseq-preprocess failed"),
        (
            'while [ $# -gt 0 ]; do case $1 in --*pref) echo "[None] $2: 7 sents, 9 tokens" ;;'
            " esac; shift; done",
            "fairseq-preprocess has not read all",
        ),
    ],
)
def test_a_failing_preprocess_leaves_nothing(tmp_path, preprocess, message):
    write_shard(tmp_path / "shards" / "data00.json")
    stubs = stub(tmp_path / "stubs", "fairseq-preprocess", preprocess)
    done = run_with(stubs, PREPARE, "--source", "shards", "--data-bin", "out/db", *OPTIONS,
                    cwd=tmp_path)  # fmt: skip
    assert_user_error(done, message)
    assert os.listdir(tmp_path / "out") == []


def test_a_killed_run_leaves_nothing_that_looks_whole_and_the_next_clears_it(tmp_path):
    write_shard(tmp_path / "shards" / "data00.json")
    words = ["bash", ROOT / "scripts" / PREPARE, "--source", "shards", "--data-bin", "out/db"]
    stubs = stub(tmp_path / "stubs", "fairseq-preprocess", f"touch {tmp_path}/begun; sleep 100")
    process = subprocess.Popen(
        [*words, *OPTIONS],
        cwd=tmp_path,
        env={**os.environ, **with_stubs(stubs)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = os.listdir(tmp_path / "out")
    assert left.startswith("db.partial.")
    stub(stubs, "fairseq-preprocess", "exit 1")
    done = run_with(stubs, PREPARE, *words[2:], *OPTIONS, cwd=tmp_path)
    assert_user_error(done, "fairseq-preprocess failed")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(tmp_path, number):
    """Ctrl-C reaches all processes of the group, ``kill`` only the one that is named."""
    write_shard(tmp_path / "shards" / "data00.json")
    stubs = stub(
        tmp_path / "stubs", "fairseq-preprocess", f"echo $$ >{tmp_path}/begun; exec sleep 99"
    )
    process = subprocess.Popen(
        [
            "bash",
            ROOT / "scripts" / PREPARE,
            "--source",
            "shards",
            "--data-bin",
            "out/db",
            *OPTIONS,
        ],
        cwd=tmp_path,
        env={**os.environ, **with_stubs(stubs)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # tests in the background ignore interrupts, tests under nohup ignore hang-ups
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir(tmp_path / "out")) == 1
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in error
    assert os.listdir(tmp_path / "out") == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "begun").read_text()), 0)

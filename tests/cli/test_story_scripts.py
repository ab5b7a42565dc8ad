"""The story experiment's shell scripts: complete or nothing, and their arithmetic."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
from fairseq.data import Dictionary, data_utils

from tests.cli.fairtale_command import ROOT, assert_user_error, script

PREPARE = "story_tinystories/prepare.sh"
NAMES = ["Lily", "Tom", "Ben", "Mia", "Sam", "Anna", "Leo", "Zoe"]
STORIES = [
    f"{NAMES[n % 8]} had {n} red apples. {NAMES[n % 7]} ate them all.\nThe end {n * 7}."
    for n in range(300)
]


def write_shard(path, stories=STORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"story": story} for story in stories]))
    return path


def stub(folder, name, text):
    """Puts a pretended command into ``folder``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return folder


def with_stubs(folder):
    return {
        "PATH": f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }


def run_with(stubs, name, *words, cwd, **env):
    """As :func:`script`, with the commands in ``stubs`` found first."""
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *map(str, words)],
        cwd=cwd,
        env={**os.environ, **with_stubs(stubs), **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


# ---------------------------------------------------------------------------- prepare.sh

OPTIONS = ("--vocab-size", "330", "--valid", "0.1", "--workers", "2")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with shards/ and db/, and what prepare.sh said."""
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
    assert_user_error(again(*OPTIONS, data_bin="mine"), "mine is there", "did not make it")
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
            "fairseq-preprocess lost lines of",
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
        # a shell that has put the tests into the background lets them ignore interrupts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
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


# ------------------------------------------------------------------------------ train.sh


# what `fairtale launch` asks of torch
FAKE_TORCH = """
class cuda:
    is_available = staticmethod(lambda: {count} > 0)
    device_count = staticmethod(lambda: {count})
    is_bf16_supported = staticmethod(lambda *_: "{precision}" == "--bf16")
"""


def train_with(tmp_path, gpus, *options, **env):
    """The words with which train.sh starts the training, on a machine that has ``gpus``."""
    stubs = tmp_path / "stubs"
    for name in ("fairseq-train", "torchrun"):
        stub(stubs, name, f'printf "%s\\n" {name} "$@" >words; touch run/checkpoint_last.pt')
    stub(stubs, "python", f'exec {sys.executable} "$@"')
    count, precision = gpus.split(" ")
    (tmp_path / "pretended" / "torch").mkdir(parents=True, exist_ok=True)
    text = FAKE_TORCH.format(count=count, precision=precision)
    (tmp_path / "pretended" / "torch" / "__init__.py").write_text(text)
    (tmp_path / "db").mkdir(exist_ok=True)
    (tmp_path / "db" / "train.idx").touch()
    done = run_with(stubs, "story_tinystories/train.sh", "--data-bin", "db", "--save-dir", "run",
                    *options, cwd=tmp_path, PYTHONPATH=str(tmp_path / "pretended"),
                    **env)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (tmp_path / "words").read_text().splitlines(), done


def value(words, option):
    return words[len(words) - 1 - words[::-1].index(option) + 1]


@pytest.mark.parametrize(
    ("gpus", "options", "frequency", "tokens"),
    [
        ("1 --bf16", [], 8, 131072),
        ("8 --bf16", [], 1, 131072),
        ("3 --fp16", [], 3, 147456),  # never fewer than asked for
        ("2 --bf16", ["--max-tokens", "4096"], 16, 131072),
        ("16 --bf16", ["--update-tokens", "100"], 1, 262144),
        ("0 ", ["--precision", "fp32"], 4, 8192),
    ],
)
def test_the_arithmetic_of_an_update(tmp_path, gpus, options, frequency, tokens):
    words, done = train_with(tmp_path, gpus, *options)
    assert value(words, "--update-freq") == str(frequency)
    assert f"= {tokens} tokens" in done.stdout
    count, precision = gpus.split(" ")
    assert ("--cpu" in words) == (count == "0")
    for option in ("--bf16", "--fp16"):
        assert (option in words) == (option == precision)
    if int(count) > 1:
        assert words[:4] == ["torchrun", "--standalone", "--nproc-per-node", count]
        assert words[4].endswith("/fairseq-train")
    else:
        assert words[0] == "fairseq-train"


def test_options_pass_through_and_win(tmp_path):
    words, _ = train_with(tmp_path, "4 --bf16", "--lr", "1", "--arch", "gpt_tiny", "--pack",
                          N_GPUS="1")  # fmt: skip
    assert words[0] == "fairseq-train" and "--pack" in words
    assert value(words, "--lr") == "1" and value(words, "--arch") == "gpt_tiny"
    assert value(words, "--update-freq") == "8"


def test_what_is_fastest_on_this_cpu_is_measured_and_logged(tmp_path):
    stubs = stub(
        tmp_path / "stubs", "fairseq-train", 'echo "words $*"; touch run/checkpoint_last.pt'
    )
    stub(stubs, "python", f'exec {sys.executable} "$@"')
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "train.idx").touch()
    done = run_with(stubs, "story_tinystories/train.sh", "--data-bin", "db", "--save-dir", "run",
                    cwd=tmp_path, N_GPUS="0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "train.log").read_text()
    found = re.search(r"fp32 (\d+) GFLOP/s, bf16 (\d+) GFLOP/s; so training is in (\w+)", log)
    fp32, bf16 = int(found[1]), int(found[2])
    assert found[3] == "fp32" if fp32 > bf16 else found[3] == "bf16" or fp32 == bf16
    words = re.search("words (.*)", log)[1].split()
    assert ("--bf16" in words) == (found[3] == "bf16") and "--cpu" in words


def test_training_without_data_or_without_result(tmp_path):
    done = script("story_tinystories/train.sh", "--data-bin", "db", cwd=tmp_path)
    assert_user_error(done, "db holds no training data", "prepare.sh")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "train.idx").touch()
    stubs = stub(tmp_path / "stubs", "fairseq-train", "exit 0")
    stub(stubs, "python", f'exec {sys.executable} "$@"')
    words = ("--data-bin", "db", "--save-dir", "run", "--precision", "fp32")
    done = run_with(stubs, "story_tinystories/train.sh", *words, cwd=tmp_path, N_GPUS="0")
    assert_user_error(done, "no checkpoint was written", "train.log")
    (tmp_path / "run" / "train.log").unlink()
    stub(stubs, "fairseq-train", "echo broken; exit 7")
    done = run_with(stubs, "story_tinystories/train.sh", *words, cwd=tmp_path, N_GPUS="0")
    assert done.returncode == 7
    log = (tmp_path / "run" / "train.log").read_text()
    assert log == "== an update: 1 x 2048 x 4 = 8192 tokens\nbroken\n"
    done = run_with(stubs, "story_tinystories/train.sh", *words, cwd=tmp_path, N_GPUS="two")
    assert done.returncode == 2 and "error: N_GPUS=two: a whole number" in done.stdout


# ------------------------------------------------------------------- from nothing to stories


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    done = script("quickstart.sh", "--dir", "run", "--updates", "4", "--stories", "400", cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done


def test_quickstart_leaves_a_model_stories_and_curves(quickstart):
    folder, done = quickstart
    run = folder / "run"
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in run.glob("*.pt")) == [
        "checkpoint_best.pt",
        "checkpoint_last.pt",
    ]
    stories = (run / "stories-generated.txt").read_text().splitlines()
    assert len(stories) == 3
    for story in stories:
        assert story.startswith("Once upon a time") and story in done.stdout
    assert "perplexity of held-out text" in done.stdout


def test_generate_writes_text_alone(quickstart):
    folder, _ = quickstart
    (folder / "prompts.txt").write_text("Tom “the” 😀 fo\n\tLily\n", encoding="utf-8")
    common = ("--checkpoint", "run/checkpoint_best.pt", "--data-bin", "run/data-bin", "--cpu")
    done = script(
        "story_tinystories/generate.sh", *common, "--prompts", "prompts.txt", "--quantity", "35",
        "--sampling-topk", "20", "--temperature", "0.9", "--max-len-b", "8",
        "--output", "out/new.txt", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (folder / "out" / "new.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == 70
    assert all(line.startswith("Tom “the” 😀 fo") for line in lines[:35])
    assert all(line.startswith("Lily") for line in lines[35:])
    assert len(set(lines)) > 60  # each sample is drawn anew
    assert "70 stories, top-k 20, temperature 0.9" in done.stderr


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--quantity", "0"], ["--quantity 0"]),
        (["--prompts", "none.txt"], ["--prompts none.txt"]),
        (["--prompt", "a", "--prompts", "none.txt"], ["give one of them"]),
        (["--checkpoint", "none.pt"], ["none.pt", "train.sh"]),
        (["--topk", "5"], ["--topk is now --sampling-topk"]),
        (["--topp", "0.9"], ["--topp is now --sampling-topp"]),
        (["--seed"], ["--seed needs a value"]),
    ],
)
def test_bad_options_of_generate(quickstart, options, parts):
    folder, _ = quickstart
    done = script("story_tinystories/generate.sh", "--checkpoint", "run/checkpoint_best.pt",
                  "--data-bin", "run/data-bin", *options, cwd=folder)  # fmt: skip
    assert_user_error(done, *parts)


def test_evaluate_prints_perplexity_and_bits_per_byte(quickstart):
    folder, _ = quickstart
    done = script("story_tinystories/evaluate.sh", "--checkpoint", "run/checkpoint_best.pt",
                  "--data-bin", "run/data-bin", "--subset", "test", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "'test' subset" in line]
    assert " | ppl " in line and " | bpb " in line
    done = script("story_tinystories/evaluate.sh", "--checkpoint", "run/checkpoint_best.pt",
                  "--judge", "nowhere", cwd=folder)  # fmt: skip
    assert_user_error(done, "--judge nowhere")


def test_the_judged_table_has_a_row_for_each_setting(tmp_path):
    # The judge and the generator are tested by themselves; here only what is asked of them.
    stubs = stub(tmp_path / "stubs", "fairseq-validate", "echo \"valid on 'valid' subset | ppl 2\"")
    stub(stubs, "fairseq-train", "")
    stub(stubs, "fairseq-interactive", 'printf "S-0\\t_Hi\\nH-0\\t-1\\t_you\\n"; echo "$*" >>asked')
    # The pieces are put where the decoder would have put the text.
    stub(
        stubs,
        "python",
        f"""case "$*" in
            *--decode*) mv "$5" "${{@: -1}}" ;;
            *perplexity*) echo "$*" ;;
            *) exec {sys.executable} "$@" ;;
        esac""",
    )
    for folder in ("db/text", "judge"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "db" / "text" / "valid.txt").write_text("One.\nTwo.\nThree.\n")
    (tmp_path / "model.pt").touch()
    done = run_with(stubs, "story_tinystories/evaluate.sh", "--checkpoint", "model.pt",
                    "--data-bin", "db", "--judge", "judge", "--temperatures", "0.5 2",
                    "--sampling-topks", "1 9", "--quantity", "2", "--output", "out",
                    cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "valid on 'valid' subset | ppl 2"
    words = last.split()[1:]
    expected = [f"out/temperature-{t}-topk-{k}.txt" for t in ("0.5", "2") for k in (1, 9)]
    assert words[1:] == ["perplexity", "out/valid.txt", *expected, "--model", "judge", "--table"]
    assert (tmp_path / "out" / "valid.txt").read_text() == "One.\nTwo.\n"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert ["--temperature 2 " in line and "--sampling-topk 9 " in line for line in asked] == [
        False, False, False, True,
    ]  # fmt: skip

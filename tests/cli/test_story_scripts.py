"""The story experiment's shell scripts: complete outputs, and the size of an update."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.fairtale_command import ROOT, assert_user_error, script
from tests.cli.script_stubs import run_with, stub, with_stubs

PREPARE = "story_tinystories/prepare.sh"

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
    found = re.search(r"fp32 (\d+) GFLOP/s, bf16 (\d+) GFLOP/s; training in (\w+)", log)
    fp32, bf16 = int(found[1]), int(found[2])
    assert found[3] == "fp32" if fp32 > bf16 else found[3] == "bf16" or fp32 == bf16
    words = re.search("words (.*)", log)[1].split()
    assert ("--bf16" in words) == (found[3] == "bf16") and "--cpu" in words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ending_the_script_ends_the_training(tmp_path, number):
    """``kill`` reaches the script alone."""
    stubs = stub(tmp_path / "stubs", "fairseq-train", "echo $$ >begun; mv begun pid; exec sleep 99")
    stub(stubs, "python", f'exec {sys.executable} "$@"')
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "train.idx").touch()
    words = "--data-bin db --save-dir run --precision fp32".split()
    process = subprocess.Popen(
        ["bash", ROOT / "scripts" / "story_tinystories" / "train.sh", *words],
        cwd=tmp_path,
        env={**os.environ, **with_stubs(stubs), "N_GPUS": "0"},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    training = int((tmp_path / "pid").read_text())
    process.send_signal(number)
    # the script ends as the training does, or by its own signal if the training is quicker
    assert process.wait(timeout=60) in (128 + signal.SIGTERM, 128 + number)
    with pytest.raises(ProcessLookupError):
        os.kill(training, 0)


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
    assert log == "== devices x max-tokens x update-freq: 1 x 2048 x 4 = 8192 tokens\nbroken\n"
    done = run_with(stubs, "story_tinystories/train.sh", *words, cwd=tmp_path, N_GPUS="two")
    assert done.returncode == 2 and "error: N_GPUS=two: must be a whole number" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_training_too(number, tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "train.idx").touch()
    stubs = stub(tmp_path / "stubs", "fairseq-train", "echo begun $$; exec sleep 100")
    stub(stubs, "python", f'exec {sys.executable} "$@"')
    words = ("--data-bin", "db", "--save-dir", "run", "--precision", "fp32")
    process = subprocess.Popen(
        ["bash", str(ROOT / "scripts" / "story_tinystories" / "train.sh"), *words],
        cwd=tmp_path,
        env={**os.environ, **with_stubs(stubs), "N_GPUS": "0"},
        stdout=subprocess.PIPE,
        text=True,
        # a shell cannot trap what it inherits as ignored, as from nohup
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    training = next(int(line.split()[1]) for line in process.stdout if line.startswith("begun"))
    os.kill(process.pid, number)  # the script alone, as `kill` does
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(training, 0)
    assert "begun" in (tmp_path / "run" / "train.log").read_text()


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
    (folder / "prompts.txt").write_bytes("Tom “the”\r😀 fo\n\tLily\n".encode())
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
    assert len(set(lines)) > 60  # the samples differ
    assert "70 stories, topk 20, temperature 0.9" in done.stderr


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
    # The judge and the generator have tests of their own; this test checks how they are called.
    stubs = stub(tmp_path / "stubs", "fairseq-validate", "echo \"valid on 'valid' subset | ppl 2\"")
    stub(stubs, "fairseq-train", "")
    stub(stubs, "fairseq-interactive", 'printf "S-0\\t_Hi\\nH-0\\t-1\\t_you\\n"; echo "$*" >>asked')
    # The stub returns pieces in place of the decoded text.
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

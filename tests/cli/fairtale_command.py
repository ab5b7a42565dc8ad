"""Run ``fairtale`` and the project's shell scripts as people do, in processes of their own."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.warm_commands import warm_bin

ROOT = Path(__file__).resolve().parents[2]
WORDS = "hello how are you fine thanks red green blue good bye".split()  # of the dialogs
DIALOG_TRAINING = (
    "--task dialog_lm --arch gpt_tiny --decoder-layers 1 --decoder-embed-dim 16 "
    "--decoder-ffn-embed-dim 16 --decoder-attention-heads 2 --criterion cross_entropy "
    "--optimizer adam --lr 0.01 --max-tokens 400 --max-update 3 --no-epoch-checkpoints "
    "--max-target-positions 24 --disable-validation --data-buffer-size 0 --num-workers 0 --cpu"
).split()
TIMEOUT = 240  # seconds; a guard against hanging, nothing is timed


def _run(words, cwd, stdin, env, **own):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **own, **env}
    folders = [warm_bin(env), Path(sys.executable).parent, environment["PATH"]]
    environment["PATH"] = os.pathsep.join(str(folder) for folder in folders if folder)
    # as a shell finds it; subprocess looks in the folders of this process
    words = [shutil.which(words[0], path=environment["PATH"]), *words[1:]]
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        text=not isinstance(stdin, bytes),
    )


def fairtale(*words, cwd=None, stdin=None, env=None):
    """Run ``fairtale WORDS`` and return the finished process."""
    words = ["python", "-m", "fairtale", *words]
    return _run(words, cwd, stdin, env or {}, PYTHONPATH=str(ROOT))


def script(name, *words, cwd=None, stdin=None, env=None):
    """Run ``bash scripts/NAME WORDS`` and return the finished process."""
    return _run(["bash", ROOT / "scripts" / name, *words], cwd, stdin, env or {})


def assert_user_error(done, *parts):
    """Check that the command failed with status 2 and a last line that contains all ``parts``."""
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in line, line


def reversed_sentences(fairseq, folder, **counts):
    """Binarise sentences of letters (x) and their words in reverse (y); return the folder."""
    draw = random.Random(1)
    for split, count in counts.items():
        rows = [[draw.choice("abcdefgh") for _ in range(draw.randint(2, 6))] for _ in range(count)]
        (folder / f"{split}.x").write_text("".join(" ".join(row) + "\n" for row in rows))
        (folder / f"{split}.y").write_text("".join(" ".join(row[::-1]) + "\n" for row in rows))
    names = [word for split in counts for word in (f"--{split}pref", folder / split)]
    words = "--source-lang x --target-lang y --joined-dictionary --workers 1 --destdir".split()
    fairseq.run("preprocess", *names, *words, folder / "bin")
    return folder / "bin"


def dialogs_of_words(fairseq, folder):
    """Train a dialog model of ``WORDS`` for three updates; return its checkpoint."""
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for word in [*WORDS, "<CTX>", "<SEP>"]:
        dictionary.add_symbol(word)
    dictionary.save(str(folder / "dict.txt"))
    (folder / "train").write_text("hello <SEP> how are you\nhow are you <SEP> fine thanks\n" * 20)
    words = ["--trainpref", folder / "train", "--srcdict", folder / "dict.txt", "--workers", 1]
    fairseq.run("preprocess", "--only-source", *words, "--destdir", folder / "bin")
    fairseq.run("train", folder / "bin", *DIALOG_TRAINING, "--save-dir", folder)
    return folder / "checkpoint_last.pt"

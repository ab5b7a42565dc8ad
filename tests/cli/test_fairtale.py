"""The command ``fairtale``: verbs, fast start, error messages."""

import os
import signal
import subprocess
import sys

import pytest

from fairtale.cli.main import VERBS
from tests.cli.fairtale_command import ROOT, assert_user_error, fairtale


def test_help_lists_every_verb():
    done = fairtale("--help")
    assert done.returncode == 0
    for verb, (_, text) in VERBS.items():
        assert f"  {verb} " in done.stdout and text in done.stdout
    assert fairtale().returncode == 2
    assert fairtale("--version").stdout.startswith("fairtale ")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb):
    done = fairtale(*verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: fairtale {verb}" in done.stdout


def test_unknown_verbs():
    assert_user_error(fairtale("sing"), "no verb 'sing'", "stories")
    assert_user_error(fairtale("spm"), "give one of", "spm train", "spm encode")
    assert_user_error(fairtale("spm", "sing"), "give one of")
    assert fairtale("stories", "--no-such-option").returncode == 2


def test_text_verbs_import_neither_torch_nor_fairseq():
    code = (
        "import sys, runpy; sys.argv = ['fairtale', 'stories', '--help']\n"
        "try: runpy.run_module('fairtale', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'fairseq', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_register_runs_the_package_after_all():
    code = (
        "import sys\n"
        "import fairtale.plugin, fairtale.errors; before = 'fairseq' in sys.modules\n"
        "fairtale.plugin.register(); fairtale.plugin.register()\n"
        "from fairseq.tasks import TASK_REGISTRY\n"
        "print(before, 'story_lm' in TASK_REGISTRY)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_missing_files_and_folders(tmp_path):
    assert_user_error(
        fairtale("stories", tmp_path / "no.txt", "--output", tmp_path / "out"), "no.txt"
    )
    assert_user_error(
        fairtale("spm", "train", tmp_path / "no.txt", "--model", tmp_path / "m"),
        "no.txt: No such file",
    )
    (tmp_path / "file").write_text("x")
    assert_user_error(
        fairtale("stories", tmp_path / "file", "--output", tmp_path / "file" / "out"), "file"
    )


def test_a_missing_extra_is_named_with_its_install_command(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib')")
    (tmp_path / "train.log").write_text("x")
    done = fairtale("plot", tmp_path, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert_user_error(done, "matplotlib", "pip install 'fairtale[plots]'")


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    (tmp_path / "a.txt").write_text("word\n" * 200_000)
    fairtale("spm", "train", tmp_path / "a.txt", "--model", tmp_path / "m", "--vocab-size", "268")
    line = f"'{sys.executable}' -m fairtale spm encode a.txt --model m.model --workers 1"
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[1] == "141"
    assert "Traceback" not in done.stderr and "Error" not in done.stderr, done.stderr


def test_an_interrupt_ends_cleanly_and_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "fairtale", "stories", "/dev/stdin", "--output", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell that has put the tests into the background lets them ignore interrupts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # A pipe holds 64 KiB: once a megabyte has gone in, it is reading, its results begun.
    # (Earlier, while it imports, Python itself can lose an interrupt in a weakref callback.)
    process.stdin.write(b"This is it. A story.\n" * 60_000)
    process.stdin.flush()
    assert list(tmp_path.glob("out/.train*"))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.decode().strip().endswith("interrupted") and b"Traceback" not in error
    assert list((tmp_path / "out").iterdir()) == []

"""Folders appear complete or not at all, and record the settings they were made with."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fairtale.data.corpus.whole_folder import (
    STAMP,
    cksum,
    describe_source,
    fingerprint,
    is_ready,
    whole_folder,
)
from fairtale.errors import UserError

SETTINGS = ["vocab-size 5", "options "]


@pytest.mark.parametrize("data", [b"", b"a", b"fairtale\n" * 40, bytes(range(256)) * 300])
def test_cksum_is_that_of_posix(data):
    done = subprocess.run(["cksum"], input=data, capture_output=True, check=True)
    assert cksum(data) == done.stdout.decode().strip()


def test_the_fingerprint_is_that_of_names_and_sizes(tmp_path):
    """Equal to that of the former shell script, so that older folders are recognised."""
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "b").write_text("12345")
    (tmp_path / "sub" / "ä c").write_text("1")
    (tmp_path / ".hidden").write_text("1")
    (tmp_path / "sub" / ".git" / "seen").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    lines = ["0 ./sub/.git/seen", "1 ./sub/ä c", "5 ./b", "5 ./link"]
    expected = cksum("".join(f"{line}\n" for line in lines).encode()).replace(" ", "-")
    assert fingerprint(str(tmp_path)) == fingerprint(f"{tmp_path}/") == expected
    assert fingerprint(str(tmp_path / "b")) == cksum(b"5 ./b\n").replace(" ", "-")
    (tmp_path / "b").write_text("54321")
    assert fingerprint(str(tmp_path)) == expected
    (tmp_path / "b").write_text("543210")
    assert fingerprint(str(tmp_path)) != expected
    assert describe_source(str(tmp_path / "b")).startswith(f"{tmp_path}/b ")


def make(folder, settings=SETTINGS):
    with whole_folder(str(folder), settings) as partial:
        Path(partial, "made").mkdir()
        Path(partial, "made", "data").write_text("x")
        Path(partial, "other").write_text("x")
    return folder


def test_a_folder_that_was_made_before(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = make(tmp_path / "deep" / "db")
    assert sorted(os.listdir(folder)) == ["data", STAMP]
    assert (folder / STAMP).read_text() == "vocab-size 5\noptions \n"
    assert os.listdir(folder.parent) == ["db"]
    assert is_ready(str(folder), SETTINGS)
    assert f"{folder} is ready (made before with the same settings)" in caplog.text
    caplog.clear()
    with pytest.raises(UserError, match="db was made with other settings, see above; remove it"):
        is_ready(str(folder), ["vocab-size 6", "options ", "seed 1"])
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "  it has:     vocab-size 5",
        "  asked for:  vocab-size 6",
        "  asked for:  seed 1",
    ]


def test_what_something_else_has_made_stays(tmp_path):
    assert not is_ready(str(tmp_path / "none"), SETTINGS)
    (tmp_path / "empty").mkdir()
    assert not is_ready(str(tmp_path / "empty"), SETTINGS)
    assert not (tmp_path / "empty").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    (tmp_path / "file").touch()
    for name in ("mine", "file"):
        with pytest.raises(UserError, match=f"{name} exists, but this command did not make it"):
            is_ready(str(tmp_path / name), SETTINGS)
    assert (tmp_path / "mine" / "thesis").exists()


@pytest.mark.parametrize("error", [UserError("x"), KeyboardInterrupt(), SystemExit(143)])
def test_an_error_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), whole_folder(str(tmp_path / "db"), SETTINGS) as partial:
        assert Path(partial).parent == tmp_path
        Path(partial, "made").mkdir()
        raise error
    assert os.listdir(tmp_path) == []


def test_what_killed_runs_have_left_is_cleared(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    start = f"db.partial.{socket.gethostname()}"
    for name in (f"{start}.{ended.pid}", f"{start}.{os.getppid()}", "db.partial.elsewhere.1",
                 f"{start}.notes", f"{start}.{os.getpid()}"):  # fmt: skip
        (tmp_path / name / "made").mkdir(parents=True)
    make(tmp_path / "db")
    left = {"db", f"{start}.{os.getppid()}", "db.partial.elsewhere.1", f"{start}.notes"}
    assert set(os.listdir(tmp_path)) == left

"""The state of an export: what survives a crash, and one process at a time."""

import os
import subprocess
import sys

import pytest

from fairtale.data.documents.export_state import ExportState, locked_folder
from fairtale.errors import UserError


def test_only_what_is_committed_is_kept(tmp_path):
    path = str(tmp_path / "state.sqlite")
    state = ExportState(path, ["a 1"])
    assert state.is_new(5) and state.is_new(-(1 << 63)) and not state.is_new(5)
    state.put("progress", {"n": 1})
    state.commit()
    assert state.is_new(6)
    state.put("progress", {"n": 2})
    state.close()  # without a commit, as a crash
    state = ExportState(path, ["a 1"])
    assert state.get("progress") == {"n": 1} and state.get("other") is None
    assert not state.is_new(5) and state.is_new(6)
    state.close()


def test_other_settings_are_refused_by_name(tmp_path):
    path = str(tmp_path / "state.sqlite")
    state = ExportState(path, ["seed 1", "valid 0.1"])
    state.commit()
    state.close()
    with pytest.raises(UserError, match="it has: seed 1; asked for: seed 2.*remove the folder"):
        ExportState(path, ["seed 2", "valid 0.1"])


def test_a_damaged_state_is_an_error(tmp_path):
    (tmp_path / "state.sqlite").write_bytes(b"no database at all, but long enough" * 99)
    with pytest.raises(UserError, match="state.sqlite: cannot be written.*remove the folder"):
        ExportState(str(tmp_path / "state.sqlite"), [])


HOLD = """
import sys
from fairtale.data.documents.export_state import locked_folder
with locked_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "out.partial"
    words = [sys.executable, "-c", HOLD, str(folder)]
    held = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdout.readline() == b"held\n"
    message = f"out.partial: process {held.pid} writes into this"
    with pytest.raises(UserError, match=message), locked_folder(str(folder)):
        pass
    held.kill()
    held.communicate()
    with locked_folder(str(folder)):
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"

"""A checkpoint that does not fit on the disk is one line, and leaves nothing behind."""

import resource

import pytest
import torch
from fairseq import checkpoint_utils

from fairtale.cli.files import whole_file
from fairtale.errors import UserError


@pytest.fixture
def little_room():
    """Let this process write files of 20,000 bytes at most; Linux then reports EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_of_a_training(little_room, tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    checkpoint_utils.torch_persistent_save({"small": torch.zeros(9)}, str(path))
    content = path.read_bytes()
    with pytest.raises(UserError, match="cannot be written: File too large; earlier checkpoints"):
        checkpoint_utils.torch_persistent_save({"large": torch.zeros(99999)}, str(path))
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == content


def test_a_checkpoint_of_a_verb(little_room, tmp_path):
    def write():
        with whole_file(tmp_path / "pruned.pt", "wb") as stream:
            torch.save({"large": torch.zeros(99999)}, stream)

    with pytest.raises((UserError, OSError), match=r"File too large.*pruned.pt|pruned.pt.*large"):
        write()
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("a tensor on the meta device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="meta device"):
        checkpoint_utils.torch_persistent_save({}, str(tmp_path / "a.pt"))
    assert not list(tmp_path.iterdir())

"""Saving checkpoints atomically, and no ``crash.pt`` for a mistake in an option."""

import pytest
from fairseq import checkpoint_utils, file_io
from fairseq.trainer import Trainer

from fairtale.compat import checkpoint_saving
from fairtale.errors import UserError
from tests.compat_helpers import pristine


def test_copies_are_renamed_into_place(tmp_path, monkeypatch):
    """An interrupted copy does not damage the old file; fairseq's own copy does."""
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    source.write_text("new")

    def interrupted(src, dst):
        with open(dst, "w") as f:
            f.write("ne")
        raise KeyboardInterrupt

    for module, left in ((file_io, "old"), (pristine("fairseq.file_io"), "ne")):
        target.write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr("shutil.copyfile", interrupted)
            with pytest.raises(KeyboardInterrupt):
                module.PathManager.copy(str(source), str(target), overwrite=True)
        assert target.read_text() == left
    assert file_io.PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_text() == "new"


def test_what_a_killed_training_left_is_removed(tmp_path):
    folder = tmp_path / "a[1]"  # glob characters in the name are not a pattern
    folder.mkdir()
    for name in ("checkpoint_last.pt", "checkpoint_last.pt.tmp", "notes.tmp"):
        (folder / name).touch()
    checkpoint_utils.verify_checkpoint_directory(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint_last.pt", "notes.tmp"]


@pytest.mark.parametrize("error, saved", [(UserError("wrong"), False), (KeyError("bug"), True)])
def test_a_mistake_leaves_no_crash_file(error, saved, tmp_path, monkeypatch):
    save_checkpoint = Trainer.save_checkpoint
    while save_checkpoint.__code__.co_filename != checkpoint_saving.__file__:
        save_checkpoint = save_checkpoint.__wrapped__  # sharded training wraps it, too
    written = []
    cell = save_checkpoint.__closure__
    index = [c.cell_contents for c in cell].index(save_checkpoint.__wrapped__)
    monkeypatch.setattr(cell[index], "cell_contents", lambda *args: written.append(args[1]))
    path = str(tmp_path / "crash.pt")
    try:
        raise error
    except Exception:
        save_checkpoint(None, path, {})
    assert written == ([path] if saved else [])
    save_checkpoint(None, "checkpoint_last.pt", {})
    assert written[-1] == "checkpoint_last.pt"

"""Loading checkpoints runs no code, and reports every error in one line."""

import argparse
import os
import subprocess
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils

from fairtale import compat
from fairtale.errors import UserError
from fairtale.plugin import register


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


LOADERS = [compat.read_checkpoint, checkpoint_utils.load_checkpoint_to_cpu]
EMPTY = {
    "args": Namespace(task="translation", arch="transformer"),
    "model": {},
    "optimizer_history": [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}],
    "last_optimizer_state": {},
    "extra_state": {"train_iterator": {"epoch": 1}},
}
EMPTY["optimizer_history"][0]["num_updates"] = 1


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_checkpoints_never_run_code(load, zipped, tmp_path):
    path, touched = tmp_path / "a.pt", tmp_path / "touched"
    state = {**EMPTY, "surprise": Touch(touched)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="refused, .* run code .posix.system.") as error:
        load(str(path))
    assert "\n" not in str(error.value) and not touched.exists()
    torch.load(path, weights_only=False)
    assert touched.exists()  # the malicious object does run code if it is loaded


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_harmless_types_are_loaded(load, zipped, tmp_path):
    numbers = [np.float64(1.5), np.int64(3), np.float32(2), np.bool_(True), np.arange(4.0)]
    history = {"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 1}
    state = {
        **EMPTY,
        "args": None,
        "cfg": {"task": {"_name": "translation"}},
        "options": Namespace(task="translation"),
        "numbers": numbers,
        "optimizer_history": [history],
    }
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    loaded = load(str(tmp_path / "a.pt"))
    assert loaded["options"].task == "translation"
    for found, expected in zip(loaded["numbers"], numbers, strict=True):
        assert type(found) is type(expected) and np.array_equal(found, expected)


def test_protection_cannot_be_switched_off_by_accident():
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    allowed = {
        value[0] if isinstance(value, tuple) else value
        for value in torch.serialization.get_safe_globals()
    }
    assert argparse.Namespace in allowed
    assert not {eval, exec, getattr, os.system, subprocess.Popen} & allowed


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("size", [0, 1, 3, 4, 100, 3000, 10_000, 70_000, -1])
def test_cut_short(load, size, tmp_path):
    """torch raises five kinds of errors, depending on where the file ends."""
    path = tmp_path / "a.pt"
    torch.save({**EMPTY, "model": {"weight": torch.zeros(30_000)}}, path)
    content = path.read_bytes()
    assert len(content) > 100_000
    path.write_bytes(content[:size])
    with pytest.raises(UserError, match="cut short|damaged") as error:
        load(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": 5},
        {"model": {"weight": 5}},
        {"cfg": 5},
        {"cfg": {"model": 5}},
        {"cfg": {"task": [1]}},
        {"args": 5},
        {"task_state": 5},
    ],
    ids=str,
)
def test_parts_of_another_form(changes, tmp_path):
    torch.save({**EMPTY, **changes}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a.pt: not a fairseq model \(its "):
        compat.read_checkpoint(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("kind", ["script", "odd zip", "old, cut", "byte order"])
def test_other_damage(kind, tmp_path):
    path = tmp_path / "a.pt"
    content = {**EMPTY, "model": {"weight": torch.zeros(30_000)}}
    torch.save(content, path, _use_new_zipfile_serialization=kind != "old, cut")
    data = path.read_bytes()
    if kind == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    elif kind == "odd zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "b")
    elif kind == "old, cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        assert data.count(b"little") == 1
        path.write_bytes(data.replace(b"little", b"\xff" * 6))
    with pytest.raises(UserError, match="cut short|damaged") as error:
        compat.read_checkpoint(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [{"weight": torch.zeros(1)}, torch.zeros(1), b"this is a text\n" * 99, b"PK\x03\x04" * 99],
    ids=["weights", "tensor", "text", "zip"],
)
def test_no_checkpoint_at_all(content, tmp_path):
    path = tmp_path / "a.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match="not a fairseq model|cut short|damaged"):
        compat.read_checkpoint(str(path))
    if not torch.is_tensor(content):
        with pytest.raises(UserError, match="not a fairseq model|cut short|damaged"):
            checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_other_errors_are_left_alone(tmp_path):
    explained = compat.explained_checkpoint_errors("x")
    with pytest.raises(RuntimeError, match="^something else$"), explained:
        raise RuntimeError("something else")
    lack = RuntimeError("unable to mmap 5 bytes: Cannot allocate memory (12)")
    with pytest.raises(RuntimeError, match="memory"), compat.explained_checkpoint_errors("x"):
        namespace = {"error": lack}
        code = compile("raise error", os.path.join("torch", "serialization.py"), "exec")
        exec(code, namespace)
    with pytest.raises(FileNotFoundError):
        compat.read_checkpoint(str(tmp_path / "nowhere.pt"))


def test_options_that_a_checkpoint_lacks_can_be_given(tmp_path):
    """As fairseq-validate gives them: options of the task, of an earlier version's checkpoint."""
    register()  # the test may be the first one
    path = str(tmp_path / "a.pt")
    task = {"_name": "story_lm", "data": "old", "pack": False}
    state = {"cfg": {"task": task, "model": {"_name": "gpt"}}, "model": {}, "extra_state": {}}
    state |= {"optimizer_history": [{"lr_scheduler_state": {}, "best_loss": 0}], "args": None}
    state["extra_state"] = {"epoch": 1, "train_iterator": {"epoch": 1}}
    torch.save(state, path)
    given = {"data": "new", "lora_adapter": "folder", "mmi_path": "not an option of story_lm"}
    found = checkpoint_utils.load_checkpoint_to_cpu(path, given)["cfg"]
    assert dict(found.task) == {**task, "data": "new", "lora_adapter": "folder"}
    assert dict(checkpoint_utils.load_checkpoint_to_cpu(path)["cfg"].task) == task

"""Shards that two processes write while they train on, read by two, by one, and as a whole."""

import errno
import logging
import os
import pickle
from pathlib import Path

import pytest
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from fairtale.distributed import saving_hooks
from fairtale.distributed.shard_files import ShardReader
from fairtale.distributed.shard_folders import STATE_FILE, Save
from fairtale.distributed.shard_state import read_whole
from fairtale.errors import UserError
from tests.checkpoint_helpers import assert_same
from tests.finetuning_helpers import write_data
from tests.sharding_helpers import build, together, trained

FSDP = "--ddp-backend fsdp2 --clip-norm 0.5 --save-sharded --save-dir {dir} --shard-stage"
PLACE = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "version": 2}}
SAVE = Save(1, 4)
CASES = {
    "stage 1": "1",
    "stage 3, groups": "3 --lr-decay-per-group 0.5 --freeze-all-but-last 2",
    "stage 2, fp16": "2 --fp16 --fp16-init-scale 4 --fp16-scale-window 3",
    "untied, offload": "2 --untied-output --cpu-offload",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def start(data, rank, count, words):
    logging.disable(logging.INFO)
    return build(data, rank, count, *words.split(), update_freq=4 // count)


def saved(data, words, rank):
    """Train, save while the training goes on; return its losses and the state that was saved."""
    trainer, updates = start(data, rank, 2, words)
    trained(trainer, updates * 4)
    trainer.consolidate_optimizer()
    expected = trainer.state_dict()
    saving_hooks.begin_saving(trainer, SAVE, PLACE)
    seen = trained(trainer, updates * 3)
    saving_hooks.finish_saving()
    return seen, expected if rank == 0 else None


@pytest.mark.parametrize(
    "case", [pytest.param(n, marks=pytest.mark.slow if n[-1] in "1d" else ()) for n in CASES]
)
def test_a_training_goes_on_in_two_and_in_one(case, data, tmp_path):
    words = f"{FSDP} {CASES[case]}".format(dir=tmp_path / "saves")
    folder = tmp_path / "saves" / SAVE.name

    def go_on(rank, count):
        trainer, updates = start(data, rank, count, words)
        trainer.load_checkpoint(str(folder / STATE_FILE))
        return trained(trainer, updates * 3)

    (seen, expected), (other, _) = together(2, tmp_path / "save", lambda r: saved(data, words, r))
    assert seen == other
    assert together(2, tmp_path / "two", lambda r: go_on(r, 2)) == [seen, seen]
    (alone,) = together(1, tmp_path / "one", lambda r: go_on(r, 1))
    assert alone == [pytest.approx(values, abs=1e-5) for values in seen]
    # and one file of it is what a save into one file would have been
    whole = read_whole(folder)
    assert list(whole) == list(expected)
    for part in ("model", "last_optimizer_state", "optimizer_history", "task_state"):
        assert_same(whole[part], expected[part], part)
    assert read_whole(folder, with_optimizer=False)["last_optimizer_state"] is None


def test_a_full_disk_ends_the_training_with_the_reason(data, tmp_path):
    words = f"{FSDP} 2".format(dir=tmp_path / "saves")

    def work(rank):
        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if rank == 1:
            FileSystemWriter.write_data = full
        with pytest.raises(UserError) as error:
            saved(data, words, rank)
        return str(error.value)

    for message in together(2, tmp_path / "group", work):
        assert "cannot be written (worker 1: No space left on device): make room" in message
    assert [path.name for path in (tmp_path / "saves").iterdir()] == [f"{SAVE.name}.tmp"]


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A checkpoint of one process."""
    top = tmp_path_factory.mktemp("one")
    words = f"{FSDP} 2".format(dir=top / "saves")

    def work(rank):
        trainer, updates = start(data, rank, 1, words)
        trained(trainer, updates)
        saving_hooks.begin_saving(trainer, SAVE, PLACE)
        saving_hooks.finish_saving()

    together(1, top / "group", work)
    return top / "saves" / SAVE.name


def copied(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_the_list_of_files_executes_nothing(folder, tmp_path):
    copy = copied(folder, tmp_path)
    (copy / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    with pytest.raises(UserError, match=r"not the list of a checkpoint's shards .*mkdir"):
        ShardReader(copy)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("change", ["bytes", "elsewhere"])
def test_a_list_that_names_something_else(change, folder, tmp_path):
    copy = copied(folder, tmp_path)
    listed = pickle.loads((copy / ".metadata").read_bytes())
    if change == "bytes":  # torch would unpickle them
        from torch.distributed.checkpoint.metadata import BytesStorageMetadata

        name = min(listed.state_dict_metadata)
        listed.state_dict_metadata[name] = BytesStorageMetadata()
    else:
        next(iter(listed.storage_data.values())).relative_path = "../other"
    (copy / ".metadata").write_bytes(pickle.dumps(listed))
    with pytest.raises(UserError, match="not the list of a checkpoint's shards"):
        ShardReader(copy)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_file_is_named(damage, folder, tmp_path):
    copy = copied(folder, tmp_path)
    path = Path(copy / "__0_0.distcp")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="a file of it is missing or damaged"):
        read_whole(copy)

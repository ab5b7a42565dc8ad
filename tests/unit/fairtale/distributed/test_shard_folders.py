"""Which folders of shards count, and which are kept."""

import pytest

from fairtale.distributed.shard_folders import (
    STATE_FILE,
    Kept,
    Save,
    begin,
    complete,
    remove_old,
    remove_unfinished,
    whole_folders,
)


def write(save_dir, *saves):
    for save in saves:
        folder = begin(save_dir, save)
        (folder / STATE_FILE).touch()
        complete(folder, save)


def updates(save_dir):
    return [number for number, _ in whole_folders(save_dir)]


def test_a_folder_counts_when_it_has_its_name(tmp_path):
    assert whole_folders(tmp_path / "none") == []
    write(tmp_path, Save(1, 8), Save(2, 10))
    unfinished = begin(tmp_path, Save(2, 12))
    (unfinished / STATE_FILE).touch()
    (tmp_path / "checkpoint_2_14.shards").mkdir()  # without its file
    assert updates(tmp_path) == [8, 10]
    remove_unfinished(tmp_path)
    assert not unfinished.exists() and updates(tmp_path) == [8, 10]


def test_a_save_that_was_begun_before_begins_anew(tmp_path):
    (begin(tmp_path, Save(1, 8)) / "rest").touch()
    write(tmp_path, Save(1, 8))
    (tmp_path / "checkpoint_1_8.shards" / "rest").touch()
    write(tmp_path, Save(1, 8))  # of a training that was begun anew in the same folder
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_1_8.shards"]
    names = sorted(path.name for path in (tmp_path / "checkpoint_1_8.shards").iterdir())
    assert names == ["save.json", STATE_FILE]


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (Kept(), [2, 4, 5, 6, 8, 10, 11]),
        (Kept(intervals=2), [4, 5, 8, 10, 11]),  # 4 is the best, 11 the newest
        (Kept(intervals=1, epochs=1), [4, 10, 11]),
    ],
)
def test_what_is_kept(kept, left, tmp_path):
    write(
        tmp_path,
        Save(1, 2, at_interval=True, is_best=True),
        Save(1, 4, at_interval=True, is_best=True),
        Save(1, 5, at_end_of_epoch=True),
        Save(2, 6, at_interval=True),
        Save(2, 7),  # was the newest one for a while
        Save(2, 8, at_interval=True),
        Save(2, 10, at_end_of_epoch=True, at_interval=True),
        Save(3, 11),
    )
    removed = remove_old(tmp_path, kept)
    assert updates(tmp_path) == left
    assert len(removed) == 8 - len(left)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        path.name for _, path in whole_folders(tmp_path)
    )

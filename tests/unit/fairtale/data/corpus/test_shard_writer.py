"""Shards of tokens: what fairseq writes, wherever the writer was ended and made again."""

import numpy as np
import pytest
import torch
from fairseq.data import indexed_dataset

from fairtale.data.corpus.shard_writer import ShardWriter, token_type
from fairtale.errors import UserError

ROWS = [np.arange(5, 5 + n) for n in (3, 0, 7, 1, 1, 12, 2, 5, 1, 4)]


def writer(tmp_path, most=None, position=None, dtype="uint16"):
    for name in ("made", "scratch"):
        (tmp_path / name).mkdir(exist_ok=True)
    folders = (str(tmp_path / "made"), str(tmp_path / "scratch"))
    return ShardWriter(*folders, "train", np.dtype(dtype), most, position)


def append(shards, rows):
    tokens = np.concatenate([np.zeros(0, np.int64), *rows])
    shards.append(tokens, np.array([len(row) for row in rows], np.int32))


def files(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}


@pytest.mark.parametrize("size", [1000, 70_000])
def test_a_shard_is_what_fairseq_writes(tmp_path, size):
    shards = writer(tmp_path, dtype=token_type(size))
    append(shards, ROWS)
    shards.finish()
    prefix = str(tmp_path / "f")
    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", size)
    for row in ROWS:
        builder.add_item(torch.tensor(row))
    builder.finalize(f"{prefix}.idx")
    for extension in ("bin", "idx"):
        expected = (tmp_path / f"f.{extension}").read_bytes()
        assert files(tmp_path)[f"train.{extension}"] == expected


def test_rows_are_cut_into_shards_however_they_are_appended(tmp_path):
    found = []
    for number, parts in enumerate(([ROWS], [[row] for row in ROWS], [ROWS[:4], [], ROWS[4:]])):
        shards = writer(
            tmp_path / str(number) if (tmp_path / str(number)).mkdir() is None else "", 3
        )
        for part in parts:
            append(shards, part)
        assert shards.num_rows == 10
        shards.finish()
        found.append(files(tmp_path / str(number)))
    assert found[0] == found[1] == found[2]
    assert sorted(found[0]) == sorted(
        f"train{n}.{x}" for n in ("", 1, 2, 3) for x in ("bin", "idx")
    )
    assert np.frombuffer(found[0]["train1.bin"], np.uint16).tolist() == [5, 5, *range(5, 17)]


@pytest.mark.parametrize("most", [None, 1, 3, 10])
def test_a_writer_goes_on_from_every_position(tmp_path, most):
    (tmp_path / "whole").mkdir()
    whole = writer(tmp_path / "whole", most)
    append(whole, ROWS)
    whole.finish()
    for kept in range(len(ROWS) + 1):
        folder = tmp_path / str(kept)
        folder.mkdir()
        first = writer(folder, most)
        append(first, ROWS[:kept])
        first.sync()
        position = first.position
        append(first, ROWS[kept:][::-1])  # what a crash leaves behind the position
        first.sync()
        if kept % 2:
            first.finish()
        second = writer(folder, most, position)
        append(second, ROWS[kept:])
        second.finish()
        assert files(folder) == files(tmp_path / "whole")


def test_shards_behind_the_position_are_removed(tmp_path):
    shards = writer(tmp_path, 2)
    append(shards, ROWS[:3])
    position = shards.position
    append(shards, ROWS[3:])
    shards.sync()
    writer(tmp_path, 2, position).finish()
    assert set(files(tmp_path)) == {f"train{n}.{end}" for n in ("", 1) for end in ("bin", "idx")}


def test_no_rows_leave_no_files(tmp_path):
    shards = writer(tmp_path)
    shards.finish()
    assert not files(tmp_path)


def test_files_that_were_cut_are_refused(tmp_path):
    shards = writer(tmp_path)
    append(shards, ROWS)
    shards.sync()
    with open(tmp_path / "made" / "train.bin", "r+b") as stream:
        stream.truncate(10)
    with pytest.raises(UserError, match="train.bin has 10 bytes, but 72 were written"):
        writer(tmp_path, position=shards.position)


def test_a_full_disk_is_named(tmp_path):
    shards = writer(tmp_path)
    shards._tokens.close()
    shards._tokens = open("/dev/full", "ab")  # noqa: SIM115
    append(shards, ROWS)
    with pytest.raises(UserError, match=r"train: cannot be written \(No space left on device\)"):
        shards.sync()

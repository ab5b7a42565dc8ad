"""One index over shards: every row where fairseq has it, and no open files."""

import os
import pickle

import numpy as np
import pytest
import torch
from fairseq.data import data_utils

from fairtale.data.corpus.binarized import load_binarized
from fairtale.data.corpus.row_slices import row_slice
from fairtale.data.corpus.shard_writer import ShardWriter
from fairtale.data.corpus.sharded_rows import ShardedRows
from fairtale.data.dialog.sizes import _blocks
from fairtale.errors import UserError


def make(folder, split="train", most=7, count=30, dtype="uint16", seed=1):
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 9, count).astype(np.int32)
    shards = ShardWriter(str(folder), str(folder), split, np.dtype(dtype), most)
    shards.append(draw.integers(4, 60_000, int(sizes.sum())), sizes)
    shards.finish()
    for path in folder.glob("*.sizes"):
        path.unlink()
    return str(folder / split)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("most", [1, 7, None])
def test_rows_are_those_of_fairseq(tmp_path, dtype, most):
    prefix = make(tmp_path / "data", most=most, dtype=dtype)
    rows = load_binarized(prefix, None, combine=True)
    expected = data_utils.load_indexed_dataset(prefix, combine=True)
    assert isinstance(rows, ShardedRows) and len(rows) == len(expected) == 30
    assert rows.sizes.tolist() == expected.sizes.tolist()
    for i in np.random.default_rng(0).permutation(30):
        assert rows[int(i)].dtype == torch.int64 and rows[int(i)].tolist() == expected[i].tolist()
        size = len(expected[i])
        start = min(2, size)
        assert row_slice(rows, int(i), start, size).tolist() == expected[i][start:].tolist()
    for start, stop in ((0, 30), (6, 8), (13, 29), (5, 5)):
        flat = [t for i in range(start, stop) for t in expected[i].tolist()]
        assert stop == start or rows.block(start, stop).tolist() == flat
    flat = np.concatenate([tokens for tokens, _ in _blocks(rows)])
    assert flat.tolist() == [t for i in range(30) for t in expected[i].tolist()]


def test_a_shard_is_opened_when_a_row_is_read_and_keeps_no_file_open(tmp_path):
    prefix = make(tmp_path / "data", most=1, count=200)
    before = len(os.listdir("/proc/self/fd"))
    rows = load_binarized(prefix, None, combine=True)
    assert len(rows.prefixes) == 200 and not rows._opened
    rows[3]
    assert list(rows._opened) == [3]
    for i in range(200):
        rows[i]
    assert len(os.listdir("/proc/self/fd")) == before
    copy = pickle.loads(pickle.dumps(rows))
    assert not copy._opened and copy[5].tolist() == rows[5].tolist()


def test_without_combine_only_the_first_shard_is_read(tmp_path):
    prefix = make(tmp_path / "data")
    assert len(load_binarized(prefix, None)) == 7
    assert load_binarized(str(tmp_path / "data" / "valid"), None) is None


def test_a_folder_of_shards_is_joined_in_the_order_of_its_numbers(tmp_path):
    prefix = make(tmp_path / "data", most=2, count=30)
    whole = load_binarized(prefix, None, combine=True)
    expected = [whole[i].tolist() for i in range(30)]
    folder = tmp_path / "train"
    folder.mkdir()
    for number in range(15):
        for extension in ("bin", "idx"):
            os.rename(f"{prefix}{number or ''}.{extension}", folder / f"part-{number}.{extension}")
    rows = load_binarized(str(folder), None)
    assert [rows[i].tolist() for i in range(30)] == expected
    assert [os.path.basename(p) for p in rows.prefixes] == [f"part-{n}" for n in range(15)]
    make(tmp_path, most=None)
    with pytest.raises(UserError, match="train is a folder beside .*train.idx: remove one"):
        load_binarized(str(folder), None)
    (tmp_path / "valid").mkdir()
    with pytest.raises(UserError, match="valid: a folder without shards"):
        load_binarized(str(tmp_path / "valid"), None)


def test_indices_out_of_range(tmp_path):
    rows = load_binarized(make(tmp_path / "data"), None, combine=True)
    assert rows[-1].tolist() == rows[29].tolist()
    for call in (lambda: rows[30], lambda: rows[-31], lambda: rows.row_slice(0, 0, 99)):
        with pytest.raises(IndexError):
            call()


def test_damaged_shards_are_refused(tmp_path):
    prefix = make(tmp_path / "data")
    with open(f"{prefix}2.bin", "ab") as stream:
        stream.write(b"xx")
    with pytest.raises(UserError, match="train2.bin has .* bytes, but its index requires"):
        load_binarized(prefix, None, combine=True)
    prefix = make(tmp_path / "data")
    data = bytearray((tmp_path / "data" / "train.idx").read_bytes())
    data[-8:] = b"\x00" * 8  # the last row begins where the first does
    (tmp_path / "data" / "train.idx").write_bytes(data)
    rows = load_binarized(prefix, None)
    with pytest.raises(UserError, match="train.idx: its rows are not in order"):
        rows[0]

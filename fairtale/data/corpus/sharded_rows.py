"""One index over the rows of any number of memory-mapped shards."""

import bisect
import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data.indexed_dataset import _code_to_dtype
from torch import Tensor

from ...errors import UserError
from .arrays import Ints

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER_BYTES = len(_MAGIC) + 17  # with the version, the type and the number of rows


class ShardIndex(NamedTuple):
    """The index of a shard: ``prefix``.idx, which describes ``prefix``.bin."""

    prefix: str
    dtype: np.dtype[Any]  # of the tokens
    sizes: npt.NDArray[np.int32]  # number of tokens of each row, [rows]


def read_index(prefix: str) -> ShardIndex | None:
    """Read an index of fairseq's memory-mapped format; None if it has another format.

    Args:
        prefix: path of the two files without their extensions.

    Raises:
        UserError: a file is truncated, or the two files do not belong together.
    """
    index, data = f"{prefix}.idx", f"{prefix}.bin"
    with open(index, "rb") as stream:
        magic = stream.read(len(_MAGIC))
        if magic != _MAGIC[: len(magic)]:
            return None
        header = stream.read(_HEADER_BYTES - len(_MAGIC))
        if len(magic) + len(header) < _HEADER_BYTES:
            raise UserError(f"{index} is truncated: make the data again")
        _, code, count = struct.unpack("<QBQ", header)
        sizes = np.fromfile(stream, dtype="<i4", count=count)
    # After the header, the index holds a 4-byte size and an 8-byte offset for each row.
    if len(sizes) < count or os.path.getsize(index) != _HEADER_BYTES + 12 * count:
        raise UserError(f"{index} is truncated: make the data again")
    dtype = np.dtype(_code_to_dtype[code])
    needed = int(sizes.sum(dtype=np.int64)) * dtype.itemsize
    found = os.path.getsize(data) if os.path.isfile(data) else 0
    if found != needed:
        raise UserError(
            f"{data} has {found} bytes, but its index requires {needed}: make the data again"
        )
    return ShardIndex(prefix, dtype, sizes)


class ShardedRows(torch.utils.data.Dataset[Tensor]):
    """The rows of shards one after the other; a shard is mapped when one of its rows is read.

    Mapped shards keep no file open, so their number is not limited by the system's limit of open
    files. Memory: 4 bytes for each row, and what the system keeps of the files. Unlike fairseq's
    own class, none of the files is read at the beginning.

    Args:
        shards: the indices, in order.
    """

    def __init__(self, shards: Sequence[ShardIndex]) -> None:
        self.prefixes = [shard.prefix for shard in shards]
        self._dtypes = [shard.dtype for shard in shards]
        sizes = [shard.sizes for shard in shards]
        self.sizes: npt.NDArray[np.int32] = sizes[0] if len(sizes) == 1 else np.concatenate(sizes)
        self._ends: list[int] = np.cumsum([len(s) for s in sizes]).tolist()
        self._opened: dict[int, tuple[Ints, Ints]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        """Return a row, int64 [tokens]."""
        if index < 0:
            index += len(self)
        tokens, start = self._find(index)
        return torch.from_numpy(tokens[start : start + int(self.sizes[index])].astype(np.int64))

    @property
    def supports_prefetch(self) -> bool:
        """Return False: rows are memory-mapped and read one by one."""
        return False

    def row_slice(self, row: int, start: int, stop: int) -> Tensor:
        """Return the tokens ``start`` to ``stop - 1`` of a row, int64 [stop - start]."""
        if not 0 <= start <= stop <= self.sizes[row]:
            raise IndexError(f"tokens {start} to {stop} of a row of {self.sizes[row]}")
        tokens, begin = self._find(row)
        return torch.from_numpy(tokens[begin + start : begin + stop].astype(np.int64))

    def block(self, start: int, stop: int) -> Ints:
        """Return the tokens of the rows ``start`` to ``stop - 1`` one after the other, int [n]."""
        parts = []
        while start < stop:
            shard = bisect.bisect_right(self._ends, start)
            last = min(stop, self._ends[shard])
            tokens, begin = self._find(start)
            count = int(self.sizes[start:last].sum(dtype=np.int64))
            parts.append(tokens[begin : begin + count])
            start = last
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _find(self, index: int) -> tuple[Ints, int]:
        """Return the tokens of the shard that has a row, and where in them the row begins."""
        if not 0 <= index < len(self.sizes):
            raise IndexError(f"row {index} of {len(self.sizes)}")
        shard = bisect.bisect_right(self._ends, index)
        opened = self._opened.get(shard)
        if opened is None:
            opened = self._opened[shard] = self._open(shard)
        tokens, starts = opened
        return tokens, int(starts[index - (self._ends[shard - 1] if shard else 0)])

    def _open(self, shard: int) -> tuple[Ints, Ints]:
        """Map a shard; return its tokens, and the index of the first token of each row.

        Raises:
            UserError: the rows are not one after the other.
        """
        prefix, dtype = self.prefixes[shard], self._dtypes[shard]
        first = self._ends[shard - 1] if shard else 0
        sizes = self.sizes[first : self._ends[shard]]
        offsets = _mapped(f"{prefix}.idx")[_HEADER_BYTES + 4 * len(sizes) :]
        ends = np.cumsum(sizes, dtype=np.int64)
        starts = ends - sizes
        if not np.array_equal(offsets.view("<i8"), starts * dtype.itemsize):
            raise UserError(f"{prefix}.idx: its rows are not in order: make the data again")
        return _mapped(f"{prefix}.bin").view(dtype), starts


def _mapped(path: str) -> npt.NDArray[np.uint8]:
    """Map a file into memory; unlike NumPy and Python, torch does not keep it open."""
    size = os.path.getsize(path)
    if not size:
        return np.zeros(0, np.uint8)
    array: npt.NDArray[np.uint8] = torch.from_file(
        path, shared=False, size=size, dtype=torch.uint8
    ).numpy()
    return array

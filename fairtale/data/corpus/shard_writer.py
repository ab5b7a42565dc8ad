"""Write rows of tokens to shards in fairseq's memory-mapped format, and go on after a crash."""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from .arrays import Ints

_HEADER = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1)
# fairseq's codes of the types; it takes the smallest that holds the dictionary
_CODES = {"uint16": 8, "uint32": 9}
_LARGEST_SMALL_DICTIONARY = 65_500  # as in fairseq


def token_type(dictionary_size: int) -> np.dtype[Any]:
    """Return the type of tokens that fairseq-preprocess chooses for a dictionary."""
    return np.dtype("uint16" if dictionary_size < _LARGEST_SMALL_DICTIONARY else "uint32")


class Position(NamedTuple):
    """How much of a split is written."""

    shard: int = 0  # number of the shard that is being written
    num_rows: int = 0  # rows in this shard
    num_bytes: int = 0  # bytes of tokens in this shard
    num_before: int = 0  # rows in earlier shards


class ShardWriter:
    """Writes the rows of a split to ``train.bin``, ``train1.bin``, ``train2.bin``, ...

    The tokens and the sizes of the rows are appended to files; :meth:`finish` makes the index
    files. Where rows end in a shard does not depend on how they were appended, or how often the
    writer was ended and made again at a :class:`Position`.

    Args:
        folder: an existing folder for the shards.
        scratch: an existing folder for the sizes of the rows, until the index files are made.
        split: name of the split.
        dtype: type of the tokens.
        rows_per_shard: number of rows of every shard but the last; None for a single shard.
        position: what is written already; what the files hold behind it is removed.

    Raises:
        UserError: the files hold less than the position says.
    """

    def __init__(
        self,
        folder: str,
        scratch: str,
        split: str,
        dtype: np.dtype[Any],
        rows_per_shard: int | None,
        position: Position | None = None,
    ) -> None:
        position = position or Position()
        self._prefix = os.path.join(folder, split)
        self._sizes_prefix = os.path.join(scratch, split)
        self._dtype = dtype
        self._most = rows_per_shard
        self._position = position
        self._remove_later_shards()
        self._open(position)

    @property
    def position(self) -> Position:
        """How much was appended."""
        return self._position

    @property
    def num_rows(self) -> int:
        """The number of rows of all shards."""
        return self._position.num_before + self._position.num_rows

    def append(self, tokens: Ints, sizes: npt.NDArray[np.int32]) -> None:
        """Append rows.

        Args:
            tokens: the tokens of all rows one after the other, int [sum of sizes].
            sizes: number of tokens of each row, int [rows].

        Raises:
            UserError: they cannot be written, as on a full disk.
        """
        while len(sizes):
            at = self._position
            if self._most is not None and at.num_rows == self._most:
                self._next_shard()
                continue
            count = len(sizes) if self._most is None else min(len(sizes), self._most - at.num_rows)
            num_tokens = int(sizes[:count].sum(dtype=np.int64))
            with self._named_errors():
                self._tokens.write(tokens[:num_tokens].astype(self._dtype).tobytes())
                self._sizes.write(sizes[:count].astype("<i4").tobytes())
            self._position = at._replace(
                num_rows=at.num_rows + count,
                num_bytes=at.num_bytes + num_tokens * self._dtype.itemsize,
            )
            tokens, sizes = tokens[num_tokens:], sizes[count:]

    def sync(self) -> None:
        """Write everything appended to the disk, so that it survives a crash."""
        with self._named_errors():
            for stream in (self._tokens, self._sizes):
                stream.flush()
                os.fsync(stream.fileno())

    def finish(self) -> None:
        """Write the index files; may be repeated. A split without rows leaves no files.

        Raises:
            UserError: they cannot be written.
        """
        self.sync()
        self.close()
        if not self.num_rows:
            os.unlink(f"{self._prefix}.bin")
            return
        with self._named_errors():
            for number in range(self._position.shard + 1):
                self._write_index(number)

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError):  # what is not written is behind the last position
            self._tokens.close()
        with contextlib.suppress(OSError):
            self._sizes.close()

    def _open(self, position: Position) -> None:
        wanted = (
            (f"{self._prefix}{position.shard or ''}.bin", position.num_bytes),
            (self._sizes_path(position.shard), 4 * position.num_rows),
        )
        for path, size in wanted:
            found = os.path.getsize(path) if os.path.exists(path) else 0
            if found < size:
                raise UserError(
                    f"{path} has {found} bytes, but {size} were written: the folder was changed; "
                    "remove it and begin again"
                )
        with self._named_errors():
            self._tokens, self._sizes = (open(path, "ab") for path, _ in wanted)  # noqa: SIM115
            self._tokens.truncate(position.num_bytes)
            self._sizes.truncate(4 * position.num_rows)

    def _sizes_path(self, number: int) -> str:
        return f"{self._sizes_prefix}{number or ''}.sizes"

    def _next_shard(self) -> None:
        self.sync()
        self.close()
        before = self._position.num_before + self._position.num_rows
        self._position = Position(self._position.shard + 1, num_before=before)
        self._open(self._position)

    def _remove_later_shards(self) -> None:
        number = self._position.shard + 1
        while os.path.exists(f"{self._prefix}{number}.bin"):
            os.unlink(f"{self._prefix}{number}.bin")
            number += 1

    def _write_index(self, number: int) -> None:
        sizes = np.fromfile(self._sizes_path(number), dtype="<i4")
        ends = np.cumsum(sizes, dtype=np.int64) * self._dtype.itemsize
        with open(f"{self._prefix}{number or ''}.idx", "wb") as stream:
            stream.write(_HEADER)
            stream.write(struct.pack("<BQ", _CODES[self._dtype.name], len(sizes)))
            sizes.tofile(stream)
            (ends - sizes * np.int64(self._dtype.itemsize)).astype("<i8").tofile(stream)
            stream.flush()
            os.fsync(stream.fileno())

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._prefix}: cannot be written ({error.strerror}); what was written is whole: "
                "make room and run the same command again"
            ) from error

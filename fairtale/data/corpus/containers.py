"""Open files as streams of bytes: plain, compressed, or members of an archive.

Nothing is unpacked to disk, and no name inside an archive is used as a path. Streams count what
they yield, so that the report can say which share of a corpus was lost.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from ...errors import UserError
from .records import ByteStream
from .report import CorpusReport

OnBytes = Callable[[int], object]

PACKED = (".gz", ".bz2", ".xz")  # extensions of compressed files
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")

_OPENERS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)
_DAMAGE = (
    EOFError,
    tarfile.TarError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,  # an unknown compression in a zip archive
)
_TAR_MAGIC = slice(257, 262)


def without_packing(path: str) -> str:
    """Return a path without the extension of a compression, such as ``.gz``."""
    for extension in PACKED:
        if path.lower().endswith(extension):
            return path[: -len(extension)]
    return path


class Member(NamedTuple):
    """A file inside an archive."""

    name: str  # as the archive gives it; never used as a path
    size: int  # bytes, as the archive states it
    stream: ByteStream


class CountingFile(io.FileIO):
    """An unbuffered file that reports how many bytes were read, for a progress bar."""

    def __init__(self, path: str, on_bytes: OnBytes | None) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        count = super().readinto(buffer)
        if self._on_bytes:
            self._on_bytes(count or 0)
        return count


class CountedStream:
    """A stream whose bytes and lines are counted in a report as read."""

    def __init__(self, stream: ByteStream, report: CorpusReport) -> None:
        self._stream, self._report = stream, report

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; no bytes at the end of the stream."""
        data = self._stream.read(size)
        self._report.num_bytes += len(data)
        self._report.num_lines += data.count(b"\n")
        return data


@contextlib.contextmanager
def named_damage(path: str) -> Iterator[None]:
    """Turn the errors of damaged compressed files into one that names the file.

    Raises:
        UserError: the compressed data are damaged or incomplete.
    """
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(path, error) from error


def _damaged(path: str, error: BaseException) -> UserError:
    kind = "archive" if path.lower().endswith(ARCHIVES) else "compressed file"
    return UserError(f"{path}: damaged or incomplete {kind} ({error}); fetch it again")


@contextlib.contextmanager
def open_stream(path: str, on_bytes: OnBytes | None = None) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if it begins as gzip, bzip2 or xz data do.

    Args:
        path: the file.
        on_bytes: called with the number of bytes that have just been read from disk.
    """
    with named_damage(path), io.BufferedReader(CountingFile(path, on_bytes), 1 << 20) as raw:
        begin = raw.peek(8)[:8]
        for magic, opener in _OPENERS:
            if begin.startswith(magic):
                with opener(raw) as plain:
                    yield plain
                return
        yield raw


def is_archive(path: str, head: bytes) -> bool:
    """Return whether a file is an archive, by its extension or its first decompressed bytes."""
    is_zip = head.startswith(b"PK\x03\x04")
    return is_zip or head[_TAR_MAGIC] == b"ustar" or path.lower().endswith(ARCHIVES)


def read_members(path: str, on_bytes: OnBytes | None = None) -> Iterator[Member]:
    """Yield the files of a zip or tar archive in its order; a stream is read before the next.

    Hidden files, such as macOS's ``._NAME``, links and folders are passed over.

    Raises:
        UserError: the archive is damaged, encrypted, or a document of an office program.
    """
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    yield from _zip_members(path, on_bytes) if is_zip else _tar_members(path, on_bytes)


def _tar_members(path: str, on_bytes: OnBytes | None) -> Iterator[Member]:
    # The decompressor verifies length and checksum; tarfile's own stream mode does not.
    with open_stream(path, on_bytes) as plain:
        archive = tarfile.open(fileobj=plain, mode="r|")  # noqa: SIM115 (it holds nothing else)
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None and not _is_hidden(member.name):
                yield Member(member.name, member.size, stream)
        while plain.read(1 << 20):
            pass  # read to the end, where the checksum is verified


def _zip_members(path: str, on_bytes: OnBytes | None) -> Iterator[Member]:
    with (
        named_damage(path),
        io.BufferedReader(CountingFile(path, on_bytes), 1 << 20) as raw,
        zipfile.ZipFile(raw) as archive,
    ):
        names = set(archive.namelist())
        if names & {"[Content_Types].xml", "mimetype", "META-INF/container.xml"}:
            raise UserError(
                f"{path}: a document of an office program or an e-book, not an archive of "
                "texts; save it as plain text"
            )
        for info in archive.infolist():
            if info.is_dir() or _is_hidden(info.filename):
                continue
            if info.flag_bits & 1:
                raise UserError(f"{path}: {info.filename} in it is encrypted; unpack it first")
            with archive.open(info) as stream:
                yield Member(info.filename, info.file_size, stream)


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return parts[-1].startswith(".") or "__MACOSX" in parts

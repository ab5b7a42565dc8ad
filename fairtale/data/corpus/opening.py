"""Open a file, or every known file of an archive, with its beginning looked at."""

from collections.abc import Iterator
from typing import NamedTuple

from .containers import (
    CountedStream,
    OnBytes,
    is_archive,
    named_damage,
    open_stream,
    read_members,
)
from .heads import Head, look
from .records import ByteStream
from .report import CorpusReport
from .source_files import is_about_the_corpus


class Opened(NamedTuple):
    """A file, or a file of an archive, that is open for reading."""

    name: str  # path, or ``archive:member``
    head: Head
    stream: ByteStream  # from the beginning; what is read is counted in the report
    in_archive: bool


class _Progress:
    """Holds the bytes that were read back until it is known that they are not read again."""

    def __init__(self, on_bytes: OnBytes | None) -> None:
        self._on_bytes, self._begun, self._held = on_bytes, False, 0

    def add(self, count: int) -> None:
        """Count bytes that have just been read."""
        if not self._begun:
            self._held += count
        elif self._on_bytes:
            self._on_bytes(count)

    def begin(self) -> None:
        """Report the bytes that were held back, and all others at once."""
        self._begun = True
        self.add(self._held)


def look_at(path: str) -> Head:
    """Return the head of a file."""
    with named_damage(path), open_stream(path) as stream:
        return look(stream, path)[0]


def open_files(
    path: str, extensions: tuple[str, ...], report: CorpusReport, on_bytes: OnBytes | None = None
) -> Iterator[Opened]:
    """Yield a file, or the files of an archive, in order; read a stream before the next.

    Wrap the reading in :func:`..containers.named_damage`.

    Args:
        path: the file or archive.
        extensions: extensions of the files of an archive to open, in lower case; others are
            listed in the report as ignored.
        report: counts what is read.
        on_bytes: called with the number of bytes that have just been read from disk.
    """
    progress = _Progress(on_bytes)
    with open_stream(path, progress.add) as stream:
        head, again = look(stream, path)
        if not is_archive(path, head.data):
            progress.begin()
            yield Opened(path, head, CountedStream(again, report), False)
            return
    report.files.setdefault("archive", []).append((path, "its content"))
    for member in read_members(path, on_bytes):
        name = f"{path}:{member.name}"
        if is_about_the_corpus(member.name) or not member.name.lower().endswith(extensions):
            report.ignored_files.append(name)
            continue
        head, again = look(member.stream, name)
        yield Opened(name, head, CountedStream(again, report), True)

"""Create folders atomically, together with a file that records the settings used."""

import contextlib
import difflib
import logging
import os
import shutil
import socket
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import UserError

logger = logging.getLogger(__name__)

STAMP = "prepare.txt"  # name of the file that records the settings of a folder

# Table that reverses the order of the bits of each byte.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def cksum(data: bytes) -> str:
    """Return the checksum and the length of ``data`` as the POSIX command ``cksum`` prints them.

    Folders made by older versions record this checksum, so the algorithm cannot change. Unlike
    zlib's CRC-32, ``cksum`` processes the highest bit of each byte first, starts from zero, and
    appends the length, lowest byte first.
    """
    length = len(data).to_bytes((len(data).bit_length() + 7) // 8, "little")
    reflected = zlib.crc32((data + length).translate(_REVERSED), 0xFFFFFFFF)
    return f"{int(f'{reflected:032b}'[::-1], 2)} {len(data)}"


def fingerprint(path: str) -> str:
    """Return a checksum of the name and size of a file, or of all files in a folder.

    Hidden files are ignored, and symbolic links are followed.
    """
    if os.path.isdir(path):
        folder, names = path, list(_files_inside(path))
    else:
        folder, names = os.path.dirname(path) or ".", [os.path.basename(path)]
    lines = []
    for name in names:
        full = os.path.join(folder, name)
        if os.path.isfile(full) and not os.path.basename(name).startswith("."):
            lines.append(b"%d ./%s\n" % (os.path.getsize(full), os.fsencode(name)))
    return cksum(b"".join(sorted(lines))).replace(" ", "-")


def _files_inside(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield os.path.relpath(os.path.join(root, name), folder)


def describe_source(path: str) -> str:
    """Return the absolute path and the fingerprint of a file or folder, as one setting."""
    return f"{os.path.abspath(path)} {fingerprint(path)}"


def is_ready(folder: str, settings: Sequence[str]) -> bool:
    """Return whether ``folder`` was already made with these settings.

    An empty folder is removed, so that a finished folder can be renamed to it.

    Args:
        folder: the finished folder.
        settings: lines of the form ``name value``.

    Raises:
        UserError: the folder exists, but was made with other settings or by another command.
    """
    if not os.path.lexists(folder):
        return False
    stamp = Path(folder, STAMP)
    if not stamp.is_file():
        try:
            os.rmdir(folder)
        except OSError:
            raise UserError(
                f"{folder} exists, but this command did not make it; remove it or choose "
                "another folder"
            ) from None
        return False
    had = stamp.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n").split("\n")
    asked = "\n".join(settings).rstrip("\n").split("\n")
    if had == asked:
        logger.info("== %s is ready (made before with the same settings)", folder)
        return True
    for line in difflib.ndiff(had, asked):
        if line.startswith("- "):
            logger.error("  it has:     %s", line[2:])
        elif line.startswith("+ "):
            logger.error("  asked for:  %s", line[2:])
    raise UserError(
        f"{folder} was made with other settings, see above; remove it or choose another folder"
    )


@contextlib.contextmanager
def whole_folder(folder: str, settings: Sequence[str]) -> Iterator[str]:
    """Create a working folder, and rename its subfolder ``made`` to ``folder`` on success.

    The working folder is created beside ``folder`` and is always removed. Working folders left
    by killed runs on this machine are removed first.

    Args:
        folder: the finished folder.
        settings: lines that are written to :data:`STAMP` in the finished folder.

    Yields:
        the path of the working folder; the caller creates the subfolder ``made`` in it.
    """
    folder = os.path.normpath(folder)
    with _working_folder(folder) as partial:
        yield partial
        made = os.path.join(partial, "made")
        text = "\n".join(settings) + "\n"
        Path(made, STAMP).write_text(text, encoding="utf-8", errors="surrogateescape")
        os.rename(made, folder)


@contextlib.contextmanager
def new_folder(folder: str) -> Iterator[str]:
    """Create a working folder, and rename it to ``folder`` on success, without a :data:`STAMP`.

    After an error, nothing is left.

    Args:
        folder: the finished folder, which does not exist yet or is empty.

    Yields:
        the path of the working folder.

    Raises:
        UserError: ``folder`` exists and is not empty.
    """
    folder = os.path.normpath(folder)
    refuse_existing(folder)
    with _working_folder(folder) as partial:
        made = os.path.join(partial, "made")
        os.mkdir(made)
        yield made
        if os.path.isdir(folder):
            os.rmdir(folder)  # it is empty
        os.rename(made, folder)


def refuse_existing(folder: str) -> None:
    """Refuse a folder that exists and is not empty.

    Raises:
        UserError: it does.
    """
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise UserError(f"--output {folder}: exists already; remove it or choose another folder")


@contextlib.contextmanager
def _working_folder(folder: str) -> Iterator[str]:
    parent, name = os.path.dirname(folder) or ".", os.path.basename(folder)
    os.makedirs(parent, exist_ok=True)
    start = f"{name}.partial.{socket.gethostname()}."
    _remove_left_behind(parent, start)
    partial = os.path.join(os.path.dirname(folder), f"{start}{os.getpid()}")
    os.mkdir(partial)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_left_behind(parent: str, start: str) -> None:
    for name in os.listdir(parent):
        number = name.removeprefix(start)
        if not (name.startswith(start) and number.isdecimal()):
            continue
        # A folder with our own process number comes from an earlier process that had it.
        if int(number) == os.getpid() or not _is_running(int(number)):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # the process belongs to another user
    return True

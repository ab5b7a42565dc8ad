"""Write files atomically."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from ..errors import UserError, reason_of_disk


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open ``path`` for writing so that it appears complete or not at all.

    The content is written to a temporary file in the same folder, which is renamed at the end.
    After an error, an interrupt or a crash, an existing file is untouched.

    Args:
        path: the file to write; its folder is created if it does not exist.
        mode: mode of ``open``; text is UTF-8 with line feeds unless ``options`` say otherwise.
        options: further arguments of ``open``.

    Yields:
        the open file.

    Raises:
        UserError: torch cannot write, because the disk is full or read-only.
        OSError: the same, where the system reports it.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "\n", **options}
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial", dir=folder)
    try:
        with os.fdopen(handle, mode, **options) as stream:
            yield stream
            stream.flush()
            # Without this, a power failure may leave an empty file under the new name.
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp creates files with mode 0600
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)
        reason = reason_of_disk(error) if isinstance(error, RuntimeError) else None
        if reason is not None:  # torch hides the system's error behind its own
            raise UserError(f"{path} cannot be written: {reason}") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Find the raw files of a corpus, given as files or folders."""

import os
from collections.abc import Iterable, Iterator

from ...errors import UserError


def find_files(
    sources: Iterable[str],
    extensions: tuple[str, ...],
    ignored: list[str],
    *,
    gzipped: bool = False,
) -> list[str]:
    """Return the files of ``sources``; folders are searched recursively, in sorted order.

    Hidden files and folders are skipped. A file that is given directly may have any extension.

    Args:
        sources: paths of files and folders.
        extensions: extensions of the files to find in folders, in lower case.
        ignored: a list to which the other files of the folders are appended.
        gzipped: also find files with ``.gz`` after the extension.

    Raises:
        UserError: a source does not exist, or a folder holds no file with such an extension.
    """
    found: list[str] = []
    for source in sources:
        if os.path.isdir(source):
            inside = list(_walk(source, extensions, ignored, ".gz" if gzipped else ""))
            if not inside:
                raise UserError(f"{source}: no {', '.join(extensions)} file in this folder")
            found += inside
        elif os.path.exists(source):
            found.append(source)
        else:
            raise UserError(f"{source}: no such file or folder")
    return list(dict.fromkeys(found))


def _walk(
    folder: str, extensions: tuple[str, ...], ignored: list[str], packed: str
) -> Iterator[str]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = os.path.join(root, name)
            # opening a named pipe would wait for ever, and a link may lead nowhere
            is_file = os.path.isfile(path)
            if is_file and name.lower().removesuffix(packed).endswith(extensions):
                yield path
            else:
                ignored.append(path)

"""Raw files that people name, one by one or by their folder."""

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
    """Return the files of ``sources`` (files and folders, searched in depth), sorted by folder.

    Hidden files are passed over. A file that is named itself may have any extension.

    Args:
        sources: paths.
        extensions: in small letters, of files that count in a folder.
        ignored: the other files of the folders are appended to it.
        gzipped: ``.gz`` may follow the extension.

    Raises:
        UserError: a source does not exist, or nothing readable is in a folder.
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
            if name.lower().removesuffix(packed).endswith(extensions):
                yield path
            else:
                ignored.append(path)

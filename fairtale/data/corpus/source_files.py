"""Find the raw files of a corpus, given as files or folders."""

import os
import re
from collections.abc import Iterable, Iterator

from ...errors import UserError


def find_files(
    sources: Iterable[str],
    extensions: tuple[str, ...],
    ignored: list[str],
    *,
    packed: tuple[str, ...] = (),
) -> list[str]:
    """Return the files of ``sources``; folders are searched recursively, in sorted order.

    Hidden files and folders are skipped. A file that is given directly may have any extension.

    Args:
        sources: paths of files and folders.
        extensions: extensions of the files to find in folders, in lower case.
        ignored: a list to which the other files of the folders are appended.
        packed: extensions of compressed files, such as ``.gz``, that may follow the extension.

    Raises:
        UserError: a source does not exist, or a folder holds no file with such an extension.
    """
    found: list[str] = []
    for source in sources:
        if os.path.isdir(source):
            inside = list(_walk(source, extensions, ignored, packed))
            if not inside:
                raise UserError(f"{source}: no {', '.join(extensions)} file in this folder")
            found += inside
        elif os.path.exists(source):
            found.append(source)
        else:
            raise UserError(f"{source}: no such file or folder")
    return list(dict.fromkeys(found))


def _walk(
    folder: str, extensions: tuple[str, ...], ignored: list[str], packed: tuple[str, ...]
) -> Iterator[str]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = os.path.join(root, name)
            # opening a named pipe would wait for ever, and a link may lead nowhere
            is_file = os.path.isfile(path)
            plain = name.lower()
            for extension in packed:
                plain = plain.removesuffix(extension)
            known = plain.endswith(extensions) or name.lower().endswith(extensions)
            if is_file and known and not is_about_the_corpus(plain):
                yield path
            else:
                ignored.append(path)


def without(paths: list[str], others: Iterable[list[str]]) -> list[str]:
    """Return the paths that name none of the files of ``others``.

    Raises:
        UserError: none is left.
    """
    taken = {os.path.realpath(path) for group in others for path in group}
    left = [path for path in paths if os.path.realpath(path) not in taken]
    if not left:
        raise UserError(
            f"{', '.join(paths)}: no file is left for training beside the held-out sets"
        )
    return left


def is_about_the_corpus(name: str) -> bool:
    """Return whether a file describes a corpus, by its name: README, LICENSE, metadata."""
    base = os.path.basename(name.replace("\\", "/")).lower()
    about = r"(?:readme|licen[cs]e|copying|changelog|attribution|credits|dataset_infos?|manifest)\b"
    return re.match(about, base) is not None

"""Fetch files of a corpus: go on after an interruption, and check what has arrived.

pooch transfers the bytes. Added here is what it does not do: it begins every download anew, it
unpacks a .gz file that a server declares as packed on the way, and it knows no ``file:``
addresses, which mirrors in a folder have.
"""

import gzip
import logging
import os
import shutil
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ...errors import UserError

logger = logging.getLogger(__name__)

_NUM_RETRIES = 5
_SECONDS_BETWEEN_TRIES = 5.0
_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 16  # as much is lost where a connection breaks
_NOTHING_LEFT = 416  # HTTP: the range that was asked for begins behind the end

ProgressBar = Any  # an object as tqdm makes it


class Announced(NamedTuple):
    """What a server says about a file before it is fetched."""

    size: int | None = None  # bytes
    sha256: str | None = None


def download(
    url: str, path: str, sha256: str = "", new_bar: Callable[[], ProgressBar] | None = None
) -> None:
    """Fetch a gzip file, unless it is there already.

    The bytes go to ``path.part``, and a further call goes on behind those that are there. The
    length and the SHA-256 are checked where they are known (given, or announced by Hugging
    Face), and that the file is a whole gzip file.

    Args:
        url: an address that pooch knows (https, http, ftp, ...), or ``file:``.
        sha256: in hexadecimal, or nothing where it is not known.
        new_bar: makes a progress bar for one transfer.

    Raises:
        UserError: the file could not be fetched, or is not what it should be.
    """
    if os.path.isfile(path):
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    part = f"{path}.part"
    announced = _ask_server(url)
    if not (announced.size and _size(part) == announced.size):
        logger.info("== fetching %s", url)
        _fetch(url, part, new_bar)
    if announced.size and _size(part) != announced.size:
        raise UserError(
            f"{part} has {_size(part)} bytes and should have {announced.size}; run again to go on"
        )
    _check_sha256(url, path, part, sha256 or announced.sha256 or "")
    if not _is_whole_gzip(part):
        raise UserError(f"{part} is not a whole gzip file; remove it and run again")
    os.replace(part, path)


def _size(path: str) -> int | None:
    return os.path.getsize(path) if os.path.isfile(path) else None


def _ask_server(url: str) -> Announced:
    """Return what Hugging Face announces in the headers of its redirection; else nothing."""
    if not url.startswith(("http://", "https://")):
        return Announced()
    import requests

    try:
        headers = requests.head(url, timeout=_TIMEOUT_SECONDS, allow_redirects=False).headers
    except requests.RequestException:
        return Announced()  # the transfer itself says what is wrong
    size, digest = headers.get("x-linked-size", ""), headers.get("x-linked-etag", "").strip('"')
    is_sha256 = len(digest) == 64 and all(c in "0123456789abcdef" for c in digest.lower())
    return Announced(int(size) if size.isdecimal() else None, digest.lower() if is_sha256 else None)


def _fetch(url: str, part: str, new_bar: Callable[[], ProgressBar] | None) -> None:
    """Append to ``part`` what it lacks.

    Raises:
        UserError: the server cannot be reached or refuses.
    """
    import requests

    for tries_left in reversed(range(_NUM_RETRIES + 1)):
        try:
            with open(part, "ab") as stream:
                _transfer(url, stream, new_bar)
            return
        except (requests.RequestException, OSError, ValueError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status == _NOTHING_LEFT and _size(part):
                return
            passing = isinstance(error, requests.RequestException) and (
                status is None or status >= 500 or status in (408, 429)
            )
            if passing and tries_left:
                logger.info("== %s; trying again", error)
                time.sleep(_SECONDS_BETWEEN_TRIES)
                continue
            if not _size(part):
                Path(part).unlink(missing_ok=True)
            raise UserError(
                f"could not fetch {url} ({error}); run again to go on, or give --source PATH"
            ) from None


def _transfer(url: str, stream: BinaryIO, new_bar: Callable[[], ProgressBar] | None) -> None:
    """Append what ``stream`` lacks; where a server cannot send a part, begin anew."""
    address = urllib.parse.urlparse(url)
    start = stream.tell()
    if address.scheme == "file":
        with open(urllib.request.url2pathname(address.path), "rb") as source:
            source.seek(start)
            shutil.copyfileobj(source, stream)
        return
    import pooch

    if address.scheme not in ("http", "https"):
        stream.truncate(0)
        pooch.downloaders.choose_downloader(url)(url, stream, None)
        return

    def before_the_body(response: Any, **_: object) -> None:
        if start and response.status_code == 200:  # the server cannot send a part of the file
            stream.truncate(0)
        response.raw.headers.pop("Content-Encoding", None)  # or requests would unpack the file

    bar = new_bar() if new_bar else None
    pooch.HTTPDownloader(
        progressbar=bar or False,
        chunk_size=_CHUNK_BYTES,
        timeout=_TIMEOUT_SECONDS,
        headers={"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})},
        hooks={"response": before_the_body},
    )(url, stream, None)


def _check_sha256(url: str, path: str, part: str, expected: str) -> None:
    if not expected:
        return
    import pooch

    logger.info("== checking SHA-256")
    if pooch.file_hash(part) != expected.lower():
        os.replace(part, f"{path}.damaged")
        raise UserError(
            f"{url}: SHA-256 is not {expected}; kept as {path}.damaged, run again to fetch it anew"
        )


def _is_whole_gzip(path: str) -> bool:
    try:
        with gzip.open(path) as stream:
            while stream.read(_CHUNK_BYTES):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True

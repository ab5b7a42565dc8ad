"""Download files of a corpus, resume interrupted downloads, and verify the result.

pooch transfers the bytes. This module adds what pooch lacks: it resumes a partial download, it
keeps a .gz file compressed when the server declares ``Content-Encoding: gzip``, and it supports
``file:`` addresses, so that a local folder can serve as a mirror.
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
_CHUNK_BYTES = 1 << 16  # at most this much is lost when a connection breaks
_RANGE_NOT_SATISFIABLE = 416  # HTTP status: the requested range begins after the end of the file

ProgressBar = Any  # an object with tqdm's interface


class Announced(NamedTuple):
    """Size and checksum of a file, as announced by a server before the download."""

    size: int | None = None  # bytes
    sha256: str | None = None


def download(
    url: str, path: str, sha256: str = "", new_bar: Callable[[], ProgressBar] | None = None
) -> None:
    """Download a gzip file unless it exists already.

    The bytes are written to ``path.part``; a later call resumes after the last byte there. The
    finished file must be a complete gzip file. Its size and its SHA-256 are checked if they are
    known, that is, if they are given or announced by Hugging Face.

    Args:
        url: address with a protocol that pooch supports (https, http, ftp, ...), or ``file:``.
        path: the file to write.
        sha256: expected SHA-256 in hexadecimal; empty if unknown.
        new_bar: returns a new progress bar for one transfer.

    Raises:
        UserError: the download failed, or the file fails a check.
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
    """Return what Hugging Face announces in the headers of its redirect; empty for others."""
    if not url.startswith(("http://", "https://")):
        return Announced()
    import requests

    try:
        headers = requests.head(url, timeout=_TIMEOUT_SECONDS, allow_redirects=False).headers
    except requests.RequestException:
        return Announced()  # the transfer itself will report the error
    size, digest = headers.get("x-linked-size", ""), headers.get("x-linked-etag", "").strip('"')
    is_sha256 = len(digest) == 64 and all(c in "0123456789abcdef" for c in digest.lower())
    return Announced(int(size) if size.isdecimal() else None, digest.lower() if is_sha256 else None)


def _fetch(url: str, part: str, new_bar: Callable[[], ProgressBar] | None) -> None:
    """Download the missing bytes and append them to ``part``; retry after transient errors.

    Raises:
        UserError: the server cannot be reached, or it refuses the request.
    """
    import requests

    for tries_left in reversed(range(_NUM_RETRIES + 1)):
        try:
            with open(part, "ab") as stream:
                _transfer(url, stream, new_bar)
            return
        except (requests.RequestException, OSError, ValueError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status == _RANGE_NOT_SATISFIABLE and _size(part):
                return
            transient = isinstance(error, requests.RequestException) and (
                status is None or status >= 500 or status in (408, 429)
            )
            if transient and tries_left:
                logger.info("== %s; trying again", error)
                time.sleep(_SECONDS_BETWEEN_TRIES)
                continue
            if not _size(part):
                Path(part).unlink(missing_ok=True)
            raise UserError(
                f"could not fetch {url} ({error}); run again to go on, or give --source PATH"
            ) from None


def _transfer(url: str, stream: BinaryIO, new_bar: Callable[[], ProgressBar] | None) -> None:
    """Append the missing bytes to ``stream``; restart if the server cannot send a part."""
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
        if start and response.status_code == 200:  # the server sends the whole file again
            stream.truncate(0)
        # With this header, requests would decompress the file.
        response.raw.headers.pop("Content-Encoding", None)

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

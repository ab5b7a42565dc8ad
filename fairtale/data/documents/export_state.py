"""What an export has done, in a file that survives a crash: a lock, and a small database."""

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from ...errors import UserError

_CACHE_KIB = 1 << 15  # of the database, which grows with the number of documents on disk only


@contextlib.contextmanager
def locked_folder(folder: str) -> Iterator[None]:
    """Hold a folder for this process, which is made if it does not exist.

    The system ends the lock when the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    path = os.path.join(folder, "lock")
    while True:
        os.makedirs(folder, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has just finished and removed the folder
            continue
        try:
            # a lock of the process, which its workers do not inherit
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            raise UserError(
                f"{folder}: process {owner or 'unknown'} writes into this folder; wait for it, or "
                "choose another --output"
            ) from None
        if os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path)):
            break
        os.close(handle)  # the folder was removed, as above
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


class ExportState:
    """The settings, the progress and the hashes of the texts of an export.

    Everything since the last :meth:`commit` is forgotten after a crash.

    Args:
        path: the file.
        settings: what the export was asked for. A file with other settings is refused.

    Raises:
        UserError: the file was begun with other settings, or is damaged.
    """

    def __init__(self, path: str, settings: list[str]) -> None:
        self._path = path
        with self._named_errors():
            self._connection = sqlite3.connect(path, isolation_level=None)
            for command in (
                "PRAGMA journal_mode=WAL",
                "PRAGMA synchronous=FULL",
                f"PRAGMA cache_size=-{_CACHE_KIB}",
                "CREATE TABLE IF NOT EXISTS entries (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
                "CREATE TABLE IF NOT EXISTS hashes (hash INTEGER PRIMARY KEY)",
                "BEGIN",
            ):
                self._connection.execute(command)
        had = self.get("settings")
        if had is None:
            self.put("settings", settings)
        elif had != settings:
            changed = "; ".join(
                [f"it has: {line}" for line in had if line not in settings]
                + [f"asked for: {line}" for line in settings if line not in had]
            )
            raise UserError(
                f"{os.path.dirname(path)}: an unfinished export with other settings ({changed}); "
                "repeat that command, or remove the folder"
            )

    def get(self, name: str) -> Any:
        """Return an entry, or None if there is none."""
        with self._named_errors():
            found = self._connection.execute(
                "SELECT value FROM entries WHERE name = ?", (name,)
            ).fetchone()
        return None if found is None else json.loads(found[0])

    def put(self, name: str, value: Any) -> None:
        """Store an entry, a JSON value."""
        with self._named_errors():
            self._connection.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?)", (name, json.dumps(value))
            )

    def is_new(self, text_hash: int) -> bool:
        """Store a hash of 64 bits, signed, and return whether it is new."""
        with self._named_errors():
            done = self._connection.execute("INSERT OR IGNORE INTO hashes VALUES (?)", (text_hash,))
        return done.rowcount == 1

    def commit(self) -> None:
        """Make everything that was stored survive a crash."""
        with self._named_errors():
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self._path}: cannot be written ({error}); what was exported is whole: make room "
                "and run the same command again, or remove the folder if it is damaged"
            ) from error

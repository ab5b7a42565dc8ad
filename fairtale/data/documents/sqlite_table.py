"""Read works from a table of a SQLite database, also while a crawler writes to it.

The file is untrusted. It is opened read-only; names of tables and columns are looked up in its
schema and quoted; views, virtual tables and generated columns are refused, because they run code of
the schema; and an authorizer lets SQLite do nothing but read that table. Rows are read in the order
of their keys in short transactions, which do not keep a writer from finishing.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.request import pathname2url

from ...errors import UserError
from ..corpus.report import EMPTY, INVALID_UTF8, TOO_LONG
from .fields import FieldNames
from .records import NOT_TEXT, DocumentReport, OnBytes, RawDocument
from .text_files import max_bytes

MAGIC = b"SQLite format 3\x00"  # the first bytes of every SQLite database
_BATCH_ROWS = 256
_BATCH_BYTES = 16 << 20  # a transaction also ends after this many bytes of text
_SECONDS_TO_WAIT = 30.0  # for a writer's lock
_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ}
_FUNCTIONS = {"length", "typeof"}


class SqliteTable:
    """A source of documents in the rows of a table.

    Args:
        path: the database.
        table: name of the table; None if the database has only one.
        fields: names of the columns; without ``id``, a document's name is the row's key.
        markup: markup of the texts; None for plain text, or HTML where it has HTML tags.
        max_chars: maximum length of a document.

    Raises:
        UserError: the file is not a database, or it lacks the table or a column.
    """

    def __init__(
        self, path: str, table: str | None, fields: FieldNames, markup: str | None, max_chars: int
    ) -> None:
        self.path = path
        self._markup = markup or "plain"
        self._max_bytes = max_bytes(max_chars)
        self._has_work = fields.work is not None
        with self._connected() as connection:
            self.table = _find_table(connection, path, table)
            columns = _columns(connection, self.table)
            for name in (_text_column(fields), fields.id, fields.work):
                if name is not None:
                    _check_column(name, columns, f"{path}: table {self.table}")
            keys = _keys(connection, self.table, columns)
        self._num_keys = len(keys)
        self._queries = _Queries(self.table, keys, fields, self._has_work)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Open the database read-only, and report SQLite's errors as errors of the user."""
        address = f"file:{pathname2url(os.path.abspath(self.path))}?mode=ro"
        if _is_on_read_only_medium(self.path):
            address += "&immutable=1"
        try:
            with contextlib.closing(
                sqlite3.connect(address, uri=True, timeout=_SECONDS_TO_WAIT, isolation_level=None)
            ) as connection:
                connection.execute("PRAGMA trusted_schema=OFF")
                connection.execute("PRAGMA query_only=ON")
                self._check_last_page(connection)
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:  # a name in the schema, not a text
            raise UserError(f"{self.path}: SQLite cannot read it: {error}") from error

    def _check_last_page(self, connection: sqlite3.Connection) -> None:
        # SQLite notices missing pages, but takes zeros for the rest of a page that is cut
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        if os.path.getsize(self.path) % page_size:
            raise UserError(
                f"{self.path}: SQLite cannot read it: its last page is cut short; copy it again"
            )

    def read(self, report: DocumentReport, on_bytes: OnBytes) -> Iterator[RawDocument]:
        """Yield the documents of the rows that existed at the beginning, in order of their keys."""
        table = self.table.lower()

        def allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            is_reading = action in _ALLOWED and (not first or first.lower() == table)
            called = action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS
            return sqlite3.SQLITE_OK if is_reading or called else sqlite3.SQLITE_DENY

        with self._connected() as connection:
            connection.text_factory = _Text  # text that is not UTF-8 is counted, not an error
            connection.set_authorizer(allow)
            last = connection.execute(self._queries.last).fetchone()
            position: tuple[Any, ...] | None = None
            while last is not None:
                rows = self._batch(connection, position, last)
                if not rows:
                    return
                for row in rows:
                    document = self._document(row, report, on_bytes)
                    if document is not None:
                        yield document
                position = rows[-1][: self._num_keys]

    def _batch(
        self, connection: sqlite3.Connection, after: tuple[Any, ...] | None, last: tuple[Any, ...]
    ) -> list[tuple[Any, ...]]:
        """Return the next rows: their keys, id, work, the text's type, size, and the text."""
        rows, size = list[tuple[Any, ...]](), 0
        query = self._queries.first if after is None else self._queries.following
        values = (self._max_bytes, *map(_as_value, (*(after or ()), *last)), _BATCH_ROWS)
        # Closing the cursor ends the transaction.
        with contextlib.closing(connection.execute(query, values)) as cursor:
            for row in cursor:
                rows.append(row)
                size += len(row[-1] or b"")
                if size >= _BATCH_BYTES:
                    break
        return rows

    def _document(
        self, row: tuple[Any, ...], report: DocumentReport, on_bytes: OnBytes
    ) -> RawDocument | None:
        identity, work, kind, size, data = row[self._num_keys :]
        key = "/".join(map(_as_text, row[: self._num_keys]))
        place = f"{self.path}:{self.table}:{key}"
        if kind != b"text":
            if kind == b"null":
                report.leave_out(EMPTY, place)
            else:
                report.skip(f"{NOT_TEXT} ({kind.decode()})", place)
            return None
        on_bytes(size)
        if data is None:
            report.skip(TOO_LONG, f"{place} ({size:,} bytes)")
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            report.skip(INVALID_UTF8, f"{place} (byte 0x{data[error.start]:02x})")
            return None
        name = key if identity is None else _as_text(identity)
        group = _as_text(work) if self._has_work and work is not None else name
        return RawDocument(name, text, self._markup, place, group)


class _Text(bytes):
    """A value of type text; values of type blob are plain bytes."""


class _Queries:
    """The three queries of a table; all names in them are of its schema, and quoted."""

    def __init__(self, table: str, keys: list[str], fields: FieldNames, has_work: bool) -> None:
        text = f"t.{_quoted(_text_column(fields))}"
        keyed = [f"t.{_quoted(key)}" for key in keys]
        columns = [
            *keyed,
            "NULL" if fields.id is None else f"t.{_quoted(fields.id)}",
            f"t.{_quoted(fields.work)}" if has_work and fields.work is not None else "NULL",
            f"typeof({text})",
            f"length(CAST({text} AS BLOB))",
            f"CASE WHEN typeof({text}) = 'text' AND length(CAST({text} AS BLOB)) <= ? "
            f"THEN {text} END",
        ]
        order, place = ", ".join(keyed), f"({', '.join(keyed)})"
        marks = f"({', '.join('?' * len(keys))})"
        start = f"SELECT {', '.join(columns)} FROM {_quoted(table)} AS t WHERE"
        end = f"{place} <= {marks} ORDER BY {order} LIMIT ?"
        backwards = ", ".join(f"{key} DESC" for key in keyed)
        self.last = f"SELECT {order} FROM {_quoted(table)} AS t ORDER BY {backwards} LIMIT 1"
        self.first = f"{start} {end}"
        self.following = f"{start} {place} > {marks} AND {end}"


def is_database(path: str) -> bool:
    """Return whether a file begins as a SQLite database does."""
    with open(path, "rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def _is_on_read_only_medium(path: str) -> bool:
    # Without a writable folder, SQLite cannot share a database in WAL mode with a writer. If no
    # writer has left a log there, the file cannot change.
    folder = os.path.dirname(os.path.abspath(path))
    return not os.access(folder, os.W_OK) and not os.path.exists(f"{path}-wal")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text_column(fields: FieldNames) -> str:
    return fields.text or "text"


def _as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _as_value(value: Any) -> Any:
    """Return a key as a value that a query can be given."""
    if not isinstance(value, _Text):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise sqlite3.DataError(f"a key is not UTF-8: {value!r}") from None


def _find_table(connection: sqlite3.Connection, path: str, wanted: str | None) -> str:
    """Return the name of the table as the schema spells it.

    Raises:
        UserError: there is no such table, it is a view or a virtual table, or none was named and
            there are several.
    """
    rows = connection.execute(
        "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') "
        "AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    ).fetchall()
    tables = [
        name
        for name, kind, sql in rows
        if kind == "table" and not str(sql).lstrip().upper().startswith("CREATE VIRTUAL")
    ]
    listed = ", ".join(tables) or "none"
    if wanted is None:
        if len(tables) == 1:
            return str(tables[0])
        raise UserError(f"{path}: choose a table with --table; it has: {listed}")
    for name in tables:
        if name.lower() == wanted.lower():
            return str(name)
    if any(name.lower() == wanted.lower() for name, _, _ in rows):
        raise UserError(
            f"--table {wanted}: a view or a virtual table of {path}, which would run code of the "
            f"file; give a table: {listed}"
        )
    raise UserError(f"--table {wanted}: {path} has no such table; it has: {listed}")


class _Column(NamedTuple):
    """A column of the schema."""

    key: int  # place in the primary key, from 1; 0: not in the key
    generated: bool


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, _Column]:
    """Return the columns of a table by their names in lower case."""
    rows = connection.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall()
    return {row[1].lower(): _Column(row[5], generated=row[6] in (2, 3)) for row in rows}


def _check_column(name: str, columns: dict[str, _Column], place: str) -> None:
    column = columns.get(name.lower())
    if column is None:
        raise UserError(f"{place} has no column {name}; it has: {', '.join(columns)}")
    if column.generated:
        raise UserError(
            f"{place}: column {name} is generated, so reading it would run code of the file; give "
            "a stored column"
        )


def _keys(connection: sqlite3.Connection, table: str, columns: dict[str, _Column]) -> list[str]:
    """Return the columns that number the rows: the rowid, or else the primary key."""
    rowid = next((name for name in _ROWID_NAMES if name not in columns), None)
    if rowid is not None:
        try:
            connection.execute(f"SELECT {rowid} FROM {_quoted(table)} LIMIT 0")
            return [rowid]
        except sqlite3.OperationalError:
            pass  # a table WITHOUT ROWID
    keys = [name for name, column in columns.items() if column.key]
    return sorted(keys, key=lambda name: columns[name].key)

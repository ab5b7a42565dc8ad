"""Find the sources of documents that a user names.

To add another kind of source, write a class with the methods of
:class:`~.records.DocumentSource`, and recognise its name in :func:`find_sources`.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...errors import UserError
from ..corpus.containers import PACKED, without_packing
from ..corpus.source_files import find_files
from .fields import FieldNames
from .json_lines import JsonLines
from .mongo_config import PREFIX, load_config
from .mongo_server import DEFAULT_WAIT, MongoServer
from .mongo_source import MongoCollection
from .records import DocumentReport, DocumentSource
from .sqlite_table import SqliteTable, is_database
from .text_files import MARKUP_OF_EXTENSION, TextFile

_JSON = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv", ".parquet")
_DATABASES = (".sqlite", ".sqlite3", ".db")
_EXTENSIONS = (*MARKUP_OF_EXTENSION, *_JSON, *_TABLES, *_DATABASES)


@dataclass(frozen=True)
class SourceOptions:
    """Where the documents are in the sources."""

    fields: FieldNames = FieldNames()
    table: str | None = None  # of a database; None if it has only one
    markup: str | None = None  # of all texts; None: by the extension of the file
    max_chars: int = 5_000_000  # longer documents are skipped and counted
    wait: float = DEFAULT_WAIT  # seconds for which a database that is gone is waited for


def find_sources(
    names: Iterable[str], options: SourceOptions, report: DocumentReport
) -> list[DocumentSource]:
    """Return the sources that are named: files, the files of folders in sorted order, collections.

    A folder holds texts, one work a file, or files of JSON lines, or databases. The id of a text
    is its path below the folder, without the extension. ``mongo:CONFIG.json`` names the
    collections of a MongoDB database in the order of its config.

    Args:
        names: paths of files and folders, and names of configs.
        options: where the documents are in the sources.
        report: lists the files, and the files of a folder that are ignored.

    Raises:
        UserError: a source is missing, or a database lacks the table or a column, or a server
            does not answer.
    """
    sources: list[DocumentSource] = []
    seen = set[str]()
    for name in names:
        if name.startswith(PREFIX):
            sources += _collections(name.removeprefix(PREFIX), seen, options, report)
            continue
        for path in find_files([name], _EXTENSIONS, report.ignored_files, packed=PACKED):
            if os.path.realpath(path) in seen:
                continue
            seen.add(os.path.realpath(path))
            below = os.path.relpath(path, name) if os.path.isdir(name) else os.path.basename(path)
            stem = os.path.splitext(without_packing(below))[0]
            sources.append(_open(path, stem, options, report))
    _check_used(options, sources)
    return sources


def _collections(
    path: str, seen: set[str], options: SourceOptions, report: DocumentReport
) -> list[MongoCollection]:
    """Return the collections of a config.

    Raises:
        UserError: a collection is missing or empty, or the server does not answer.
    """
    if os.path.realpath(path) in seen:
        return []
    seen.add(os.path.realpath(path))
    config = load_config(path)
    server = MongoServer(config, options.wait)
    server.check()
    found, empty = list[MongoCollection](), list[str]()
    for name in config.collections:
        source = MongoCollection(server, name, options.fields, options.markup, options.max_chars)
        if source.bounds is None:
            empty.append(name)
            continue
        report.files.setdefault("MongoDB", []).append((source.collection.place, "config"))
        found.append(source)
    server.close()  # reading opens it again
    if empty:
        raise UserError(
            f"{path}: {', '.join(empty)} of the database {config.database} is missing or empty: "
            "correct COLLECTIONS, or fill it with `fairtale mongo import`"
        )
    return found


def describe_collections(name: str) -> str:
    """Return what decides about the documents of ``mongo:CONFIG.json``, as one setting."""
    report = DocumentReport()
    found = _collections(name.removeprefix(PREFIX), set(), SourceOptions(), report)
    parts = [f"{c.collection.name} {' '.join(map(str, c.bounds or ()))}" for c in found]
    return f"{PREFIX}{load_config(name.removeprefix(PREFIX)).database} {', '.join(parts)}"


def _open(path: str, name: str, options: SourceOptions, report: DocumentReport) -> DocumentSource:
    extension = os.path.splitext(without_packing(path))[1].lower()
    fields, markup, max_chars = options.fields, options.markup, options.max_chars
    source: DocumentSource
    if not os.path.isfile(path):
        raise UserError(f"{path}: a pipe or a device; write the works to a file first")
    if is_database(path):
        source = SqliteTable(path, options.table, fields, markup, max_chars)
        kind, reason = "SQLite", f"table {source.table}"
    elif extension in _DATABASES:
        raise UserError(f"{path}: not a SQLite database, in spite of its extension")
    elif extension in _JSON or extension in _TABLES:
        source, reason = JsonLines(path, fields, markup, max_chars), extension
        kind = "JSON" if extension in _JSON else "table"
    else:
        source, kind = TextFile(path, name, markup, max_chars), "text"
        reason = f"extension {extension}" if extension in MARKUP_OF_EXTENSION else "plain text"
    report.files.setdefault(kind, []).append((path, reason))
    return source


def _check_used(options: SourceOptions, sources: list[DocumentSource]) -> None:
    """Refuse options that no source uses, because they point to a wrong source."""
    tables = any(isinstance(source, SqliteTable) for source in sources)
    records = tables or any(isinstance(s, JsonLines | MongoCollection) for s in sources)
    if options.table is not None and not tables:
        raise UserError(f"--table {options.table}: no source is a SQLite database")
    if options.fields != FieldNames() and not records:
        raise UserError(
            "--text-field, --id-field, --work-field: no source has JSON lines, a table or "
            "collections"
        )


def source_files(sources: Iterable[DocumentSource]) -> Iterator[str]:
    """Yield the paths of the sources that are files."""
    for source in sources:
        if source.path is not None:
            yield source.path

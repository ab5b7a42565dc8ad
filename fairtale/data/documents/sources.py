"""Find the sources of documents that a user names.

To add another kind of source, write a class with the methods of
:class:`~.records.DocumentSource`, and recognise its name in :func:`find_sources`.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...errors import UserError
from ..corpus.source_files import find_files
from .fields import FieldNames
from .json_lines import JsonLines
from .records import DocumentReport, DocumentSource
from .sqlite_table import SqliteTable, is_database
from .text_files import MARKUP_OF_EXTENSION, TextFile

_JSON = (".jsonl", ".ndjson", ".json")
_DATABASES = (".sqlite", ".sqlite3", ".db")
_EXTENSIONS = (*MARKUP_OF_EXTENSION, *_JSON, *_DATABASES)


@dataclass(frozen=True)
class SourceOptions:
    """Where the documents are in the sources."""

    fields: FieldNames = FieldNames()
    table: str | None = None  # of a database; None if it has only one
    markup: str | None = None  # of all texts; None: by the extension of the file
    max_chars: int = 5_000_000  # longer documents are skipped and counted


def find_sources(
    names: Iterable[str], options: SourceOptions, report: DocumentReport
) -> list[DocumentSource]:
    """Return the sources that are named: files, and the files of folders in sorted order.

    A folder holds texts, one work a file, or files of JSON lines, or databases. The id of a text
    is its path below the folder, without the extension.

    Args:
        names: paths of files and folders.
        options: where the documents are in the sources.
        report: lists the files, and the files of a folder that are ignored.

    Raises:
        UserError: a source is missing, or a database lacks the table or a column.
    """
    sources: list[DocumentSource] = []
    seen = set[str]()
    for name in names:
        for path in find_files([name], _EXTENSIONS, report.ignored_files):
            if os.path.realpath(path) in seen:
                continue
            seen.add(os.path.realpath(path))
            below = os.path.relpath(path, name) if os.path.isdir(name) else os.path.basename(path)
            sources.append(_open(path, os.path.splitext(below)[0], options, report))
    _check_used(options, sources)
    return sources


def _open(path: str, name: str, options: SourceOptions, report: DocumentReport) -> DocumentSource:
    extension = os.path.splitext(path)[1].lower()
    fields, markup, max_chars = options.fields, options.markup, options.max_chars
    source: DocumentSource
    if not os.path.isfile(path):
        raise UserError(f"{path}: a pipe or a device; write the works to a file first")
    if is_database(path):
        source = SqliteTable(path, options.table, fields, markup, max_chars)
        kind, reason = "SQLite", f"table {source.table}"
    elif extension in _DATABASES:
        raise UserError(f"{path}: not a SQLite database, in spite of its extension")
    elif extension in _JSON:
        source, kind, reason = JsonLines(path, fields, markup, max_chars), "JSON lines", extension
    else:
        source, kind = TextFile(path, name, markup, max_chars), "text"
        reason = f"extension {extension}" if extension in MARKUP_OF_EXTENSION else "plain text"
    report.files.setdefault(kind, []).append((path, reason))
    return source


def _check_used(options: SourceOptions, sources: list[DocumentSource]) -> None:
    """Refuse options that no source uses, because they point to a wrong source."""
    tables = any(isinstance(source, SqliteTable) for source in sources)
    records = tables or any(isinstance(source, JsonLines) for source in sources)
    if options.table is not None and not tables:
        raise UserError(f"--table {options.table}: no source is a SQLite database")
    if options.fields != FieldNames() and not records:
        raise UserError(
            "--text-field, --id-field, --work-field: no source has JSON lines or a table"
        )


def source_files(sources: Iterable[DocumentSource]) -> Iterator[str]:
    """Yield the paths of the sources that are files."""
    for source in sources:
        if source.path is not None:
            yield source.path

"""Read documents in tests."""

import sqlite3

from fairtale.data.documents.cleaning import CleaningRules, read_documents
from fairtale.data.documents.fields import FieldNames
from fairtale.data.documents.records import DocumentReport
from fairtale.data.documents.sources import SourceOptions, find_sources


def read(*paths, strict=False, keep=(), max_chars=1000, table=None, markup=None, **fields):
    """Return the documents of sources, as (name, text), and the report."""
    report = DocumentReport(strict=strict)
    options = SourceOptions(FieldNames(**fields), table, markup, max_chars)
    sources = find_sources([str(path) for path in paths], options, report)
    rules = CleaningRules(frozenset(keep), max_chars)
    found = list(read_documents(sources, rules, report, lambda count: None))
    return [(document.name, document.text) for document in found], report


def make_table(path, rows, columns="id INTEGER PRIMARY KEY, text", table="works"):
    """Write a database with one table."""
    connection = sqlite3.connect(path)
    quoted = table.replace('"', '""')
    connection.execute(f'CREATE TABLE "{quoted}" ({columns})')
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f'INSERT INTO "{quoted}" VALUES ({marks})', rows)
    connection.commit()
    connection.close()
    return path

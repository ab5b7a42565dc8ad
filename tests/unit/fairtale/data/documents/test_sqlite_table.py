"""Works in a table of a database that is not trusted, and that somebody may be writing to."""

import os
import shutil
import sqlite3

import pytest

from fairtale.data.documents import sqlite_table
from fairtale.data.documents.cleaning import CleaningRules, read_documents
from fairtale.data.documents.fields import FieldNames
from fairtale.data.documents.records import DocumentReport
from fairtale.data.documents.sqlite_table import SqliteTable
from fairtale.errors import UserError
from tests.document_helpers import make_table, read


def test_rows_in_order_of_their_keys_and_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_table, "_BATCH_ROWS", 7)
    rows = [(number, f"Text {number}.") for number in (5, *range(40, 10, -1), 2, 99)]
    path = make_table(tmp_path / "crawl.db", rows)
    expected = [(str(number), text) for number, text in sorted(rows)]
    assert read(path)[0] == expected
    monkeypatch.setattr(sqlite_table, "_BATCH_BYTES", 1)
    assert read(path)[0] == expected


@pytest.mark.parametrize(
    "columns",
    [
        "id, text",
        "id TEXT PRIMARY KEY, text",
        "id TEXT PRIMARY KEY, text) WITHOUT ROWID --",
        "rowid TEXT PRIMARY KEY, text",
        "rowid, text, _rowid_, oid, PRIMARY KEY (rowid, _rowid_)) WITHOUT ROWID --",
    ],
)
def test_any_kind_of_key(tmp_path, monkeypatch, columns):
    monkeypatch.setattr(sqlite_table, "_BATCH_ROWS", 2)
    rest = (1, 2) if "oid," in columns else ()
    rows = [(f"ключ{n}", f"Text {n}.", *rest) for n in (3, 1, 5, 2, 4)]
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE works ({columns}\n)".replace("--\n)", ""))
    marks = ", ".join("?" * len(rows[0]))
    connection.executemany(f"INSERT INTO works VALUES ({marks})", rows)
    connection.commit()
    connection.close()
    column = columns.split(",")[0].split()[0]
    found, report = read(path, id=column)
    assert sorted(found) == [(f"ключ{n}", f"Text {n}.") for n in range(1, 6)]
    assert not report.skipped


def test_values_that_are_not_text_are_counted(tmp_path):
    values = [None, 5, 1.5, b"blob", "", "x" * 3000, "x" * 30_000, "Good."]
    path = make_table(tmp_path / "a.db", list(enumerate(values)))
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO works VALUES (50, CAST(x'61ff' AS TEXT))")
    connection.commit()
    connection.close()
    found, report = read(path)
    assert found == [("7", "Good.")]
    assert dict(report.skipped) == {
        "empty": 2,
        "value that is not text (integer)": 1,
        "value that is not text (real)": 1,
        "value that is not text (blob)": 1,
        "too long": 2,
        "invalid UTF-8": 1,
    }
    assert report.places["too long"] == [
        f"{path}:works:5 (3,000 characters)",
        f"{path}:works:6 (30,000 bytes)",
    ]
    assert report.places["invalid UTF-8"] == [f"{path}:works:50 (byte 0xff)"]
    with pytest.raises(UserError, match="a.db:works:1: value that is not text"):
        read(path, strict=True)


def test_ids_works_and_a_table_by_name(tmp_path):
    path = make_table(
        tmp_path / "any name",
        [("ch1", "One.", "book"), ("ch2", "Two.", "book"), (None, "Three.", None)],
        columns='"a ""b""" TEXT, "text;--", work',
        table='w"; DROP TABLE x; --',
    )
    make_table(path, [(1, "no")])
    found, _ = read(path, table='W"; DROP TABLE x; --', id='a "b"', text="text;--", work="work")
    assert found == [("ch1", "One."), ("ch2", "Two."), ("3", "Three.")]
    names = FieldNames("text;--", 'a "b"', "work")
    source = SqliteTable(str(path), 'w"; DROP TABLE x; --', names, None, 1000)
    groups = [raw.group for raw in source.read(DocumentReport(), lambda count: None)]
    assert groups == ["book", "book", "3"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "choose a table with --table; it has: other, works"),
        (dict(table="missing"), "--table missing: .* has no such table; it has: other, works"),
        (dict(table="seen"), "--table seen: a view or a virtual table"),
        (dict(table="found"), "--table found: a view or a virtual table"),
        (dict(table="sqlite_master"), "has no such table"),
        (dict(table="works", text="body"), "table works has no column body; it has: id, text"),
        (dict(table="works", id="1); --"), "has no column 1"),
        (dict(table="works", work="w"), "has no column w"),
    ],
)
def test_names_are_looked_up_in_the_schema(tmp_path, options, words):
    path = make_table(tmp_path / "a.db", [(1, "x")])
    make_table(path, [(1, "x")], table="other")
    connection = sqlite3.connect(path)
    connection.execute("CREATE VIEW seen AS SELECT 1 AS id, 'x' AS text")
    connection.execute("CREATE VIRTUAL TABLE found USING fts5(text)")
    connection.execute("DROP TABLE IF EXISTS gone")
    connection.commit()
    connection.close()
    if options.get("table") in (None, "missing"):
        words = words.replace("other, works", r".*other, works")
    with pytest.raises(UserError, match=words):
        read(path, **options)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "a.db").write_text("text")
    with pytest.raises(UserError, match="a.db: not a SQLite database"):
        read(tmp_path)
    (tmp_path / "a.db").write_bytes(sqlite_table.MAGIC + b"\xff" * 2000)
    with pytest.raises(UserError, match="a.db: SQLite cannot read it"):
        read(tmp_path)


def test_a_truncated_database_is_refused(tmp_path):
    path = make_table(tmp_path / "a.db", [(n, "Text. " * 100) for n in range(500)])
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="a.db: SQLite cannot read it"):
        read(path)


def test_code_of_the_schema_does_not_run(tmp_path):
    """A generated column may call functions."""
    path = make_table(
        tmp_path / "a.db",
        [],
        columns="id INTEGER PRIMARY KEY, text AS (hex(zeroblob(1000)))",
    )
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO works (id) VALUES (1)")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="column text is generated, so reading it would run code"):
        read(path)


def start(path):
    """Begin to read a database, and return the iterator after the first document."""
    source = SqliteTable(str(path), None, FieldNames(), None, 1000)
    documents = read_documents([source], CleaningRules(), DocumentReport(), lambda count: None)
    assert next(documents).text == "Text 0."
    return documents


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize(("name", "value"), [("_BATCH_ROWS", 2), ("_BATCH_BYTES", 1)])
def test_a_writer_works_on_while_the_table_is_read(tmp_path, monkeypatch, mode, name, value):
    """No transaction stays open between batches; rows that are added later are not read."""
    monkeypatch.setattr(sqlite_table, name, value)
    path = make_table(tmp_path / "a.db", [(n, f"Text {n}.") for n in range(10)])
    writer = sqlite3.connect(path, timeout=0)
    writer.execute(f"PRAGMA journal_mode={mode}")
    documents = start(path)
    writer.execute("INSERT INTO works VALUES (100, 'New.')")
    writer.execute("DELETE FROM works WHERE id = 8")
    writer.commit()
    assert [d.text for d in documents] == [f"Text {n}." for n in (*range(1, 8), 9)]
    writer.close()


def test_the_file_is_not_changed(tmp_path):
    path = make_table(tmp_path / "a.db", [(1, "Text.")])
    before = path.read_bytes(), os.stat(path).st_mtime_ns
    read(path)
    assert (path.read_bytes(), os.stat(path).st_mtime_ns) == before
    assert os.listdir(tmp_path) == ["a.db"]


def test_the_log_of_a_writer_that_was_killed_is_read_and_left_alone(tmp_path):
    """A last connection that could write would move the log's rows into the database."""
    path = make_table(tmp_path / "live.db", [(1, "Text.")])
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode=wal")
    writer.execute("INSERT INTO works VALUES (2, 'Logged.')")
    writer.commit()
    copy = tmp_path / "killed.db"
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copy}{end}")
    writer.close()
    before = copy.read_bytes(), (tmp_path / "killed.db-wal").read_bytes()
    assert read(copy)[0] == [("1", "Text."), ("2", "Logged.")]
    assert (copy.read_bytes(), (tmp_path / "killed.db-wal").read_bytes()) == before


def test_tables_of_sqlite_itself_are_not_counted(tmp_path):
    path = make_table(
        tmp_path / "a.db", [(1, "Text.")], "id INTEGER PRIMARY KEY AUTOINCREMENT, text"
    )
    assert read(path)[0] == [("1", "Text.")]


def test_a_name_with_characters_of_an_address(tmp_path):
    path = make_table(tmp_path / "a?mode=rwc#%41 b.db", [(1, "Text.")])
    assert read(path)[0] == [("1", "Text.")]


def test_nothing_but_the_table_can_be_read(tmp_path):
    """A second guard, should a name of the schema ever reach a query unquoted."""
    path = make_table(tmp_path / "a.db", [(1, "Text.")])
    make_table(path, [(1, "Secret.")], table="other")
    for query in ("SELECT text FROM other", "SELECT load_extension('x')", "PRAGMA user_version"):
        source = SqliteTable(str(path), "works", FieldNames(), None, 1000)
        source._queries.last = query
        with pytest.raises(UserError, match="SQLite cannot read it"):
            list(source.read(DocumentReport(), lambda count: None))


def test_a_page_that_is_cut_and_a_schema_that_is_not_utf8(tmp_path):
    path = make_table(tmp_path / "a.db", [(n, f"Text {n}.") for n in range(99)])
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match="its last page is cut short"):
        read(path)
    path.write_bytes(
        content.replace(b"id INTEGER PRIMARY KEY, text", b"id INTEGER PRIMARY KEY, tex\xd4")
    )
    with pytest.raises(UserError, match="a.db: SQLite cannot read it"):
        read(path)

"""Works in JSON lists, tables, parquet and compressed files; pointers are refused."""

import gzip
import json

import pytest

from fairtale.data.documents.cleaning import CleaningRules, read_documents
from fairtale.data.documents.fields import FieldNames
from fairtale.data.documents.records import DocumentReport
from fairtale.data.documents.sources import SourceOptions, find_sources
from fairtale.errors import UserError

WORKS = [f"The work of number {i} begins here.\nIt has two lines." for i in range(5)]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def read(path, **fields):
    report = DocumentReport()
    sources = find_sources([path], SourceOptions(FieldNames(**fields)), report)
    works = list(read_documents(sources, CleaningRules(), report, lambda count: None))
    return [(work.name, work.text) for work in works], report


RECORDS = [{"id": f"w{i}", "text": work} for i, work in enumerate(WORKS)]
EXPECTED = [(record["id"], record["text"]) for record in RECORDS]
TABLE = "id;text\n" + "".join(f'{r["id"]};"{r["text"]}"\n' for r in RECORDS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", json.dumps(RECORDS, indent=1)),
        ("a.json", "".join(json.dumps(record) + "\n" for record in RECORDS)),
        ("a.jsonl.gz", gzip.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode())),
        ("a.csv", TABLE),
        ("a.csv.gz", gzip.compress(TABLE.encode())),
    ],
)
def test_records_of_every_encoding(tmp_path, name, data):
    works, report = read(write(tmp_path / name, data))
    assert works == EXPECTED and not report.skipped and report.num_bytes > 200
    assert read(write(tmp_path / name, data), text="text", id="id")[0] == EXPECTED


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet"))[0] == EXPECTED


def test_compressed_texts_keep_their_names(tmp_path):
    for i, work in enumerate(WORKS):
        write(tmp_path / f"w{i}.txt.gz", gzip.compress(work.encode()))
    assert read(str(tmp_path))[0] == EXPECTED
    write(tmp_path / "w0.txt.gz", gzip.compress(b"x" * 99_999)[:-20])
    with pytest.raises(UserError, match="w0.txt.gz: damaged or incomplete compressed file"):
        read(str(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.md", "a.csv"])
def test_a_pointer_is_no_work(tmp_path, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 19\n"
    with pytest.raises(UserError, match=f"{name}: a Git LFS pointer"):
        read(write(tmp_path / name, pointer))


def test_losses_have_bytes_and_lines(tmp_path):
    lines = [json.dumps(record).encode() for record in RECORDS] + [b'{"text": "caf\xe9"}']
    works, report = read(write(tmp_path / "a.jsonl", b"\n".join(lines)))
    assert len(works) == 5 and report.lost_bytes == {"invalid UTF-8": 16}
    assert report.lost_share == pytest.approx(1 / 6)
    taken = report.take()
    assert not report.damaged and taken.lost_lines == {"invalid UTF-8": 1}
    report.add(taken)
    assert report.lost_share == taken.lost_share

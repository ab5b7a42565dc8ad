"""Read parallel text from one file: TMX, the XML of WMT, tables, JSON lines and parquet."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import UserError
from ..corpus.heads import Head
from ..corpus.record_files import RecordFile, read_record_file
from ..corpus.records import ByteStream
from ..corpus.report import CorpusReport
from ..corpus.tables import DELIMITERS, Dialect, read_rows
from ..corpus.xml_events import END, START, TEXT, read_xml

Pair = tuple[str, str]

# Elements of TMX that hold codes of a program and no text.
_CODES = ("bpt", "ept", "ph", "it", "ut", "sub")
SIDES = (("source", "target"), ("src", "tgt"), ("src", "trg"), ("source_text", "target_text"))


def _is_language(given: str, wanted: str) -> bool:
    """Return whether a code of a language, such as ``en-GB``, is the wanted one."""
    given, wanted = given.lower().replace("_", "-"), wanted.lower().replace("_", "-")
    return given == wanted or given.split("-")[0] == wanted.split("-")[0]


def read_tmx(stream: ByteStream, name: str, languages: Pair) -> Iterator[Pair]:
    """Yield the pairs of a TMX file; a side that a unit lacks is empty.

    Raises:
        UserError: the file is not well-formed, or no unit has both languages.
    """
    seen, num_pairs = set[str](), 0
    sides = {0: "", 1: ""}
    side: int | None = None
    inside, codes, parts = False, 0, list[str]()
    for event in read_xml(stream, name):
        if event.kind == START and event.value == "tu":
            sides = {0: "", 1: ""}
        elif event.kind == START and event.value == "tuv":
            language = event.attributes.get("lang", "")
            seen.add(language)
            matches = [i for i, wanted in enumerate(languages) if _is_language(language, wanted)]
            side = matches[0] if matches and not sides[matches[0]] else None
        elif event.kind == START and event.value == "seg":
            inside, parts = True, []
        elif event.kind in (START, END) and event.value in _CODES:
            codes += 1 if event.kind == START else -1
        elif event.kind == TEXT and inside and not codes:
            parts.append(event.value)
        elif event.kind == END and event.value == "seg":
            inside = False
            if side is not None:
                sides[side] = " ".join("".join(parts).split())
        elif event.kind == END and event.value == "tu":
            num_pairs += all(sides.values())
            yield sides[0], sides[1]
    if not num_pairs:
        found = ", ".join(sorted(filter(None, seen))) or "none"
        raise UserError(
            f"{name}: no unit of this TMX has both {' and '.join(languages)}; its languages are "
            f"{found}: give them by -s and -t"
        )


def read_wmt(stream: ByteStream, name: str, languages: Pair) -> Iterator[Pair]:
    """Yield the segments of the XML of WMT's test sets since 2021 and their first reference.

    Either language may be the source: the other side is the first reference in its language.

    Raises:
        UserError: the file is not well-formed, or a side lacks a segment.
    """
    texts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    document, side, number, found = "", None, "", False
    parts = list[str]()
    done = set[int]()  # the sides of this document that were read
    for event in read_xml(stream, name):
        if event.kind == START and event.value == "doc":
            document, texts, done = event.attributes.get("id", ""), ({}, {}), set()
        elif event.kind == START and event.value in ("src", "ref"):
            language = event.attributes.get("lang", "")
            matches = [i for i, wanted in enumerate(languages) if _is_language(language, wanted)]
            side = matches[0] if matches and matches[0] not in done else None
        elif event.kind == END and event.value in ("src", "ref"):
            done.update([side] if side is not None else [])
            side = None
        elif event.kind == START and event.value == "seg":
            number, parts = event.attributes.get("id", ""), []
        elif event.kind == TEXT and side is not None:
            parts.append(event.value)
        elif event.kind == END and event.value == "seg" and side is not None:
            texts[side][number] = " ".join("".join(parts).split())
        elif event.kind == END and event.value == "doc":
            yield from _document(texts, document, name, languages)
            found = True
    if not found:
        raise UserError(f"{name}: no <doc> in it: not the XML of a WMT set")


def _document(
    texts: tuple[dict[str, str], dict[str, str]], document: str, name: str, languages: Pair
) -> Iterator[Pair]:
    for has, lacks, language in ((0, 1, languages[1]), (1, 0, languages[0])):
        missing = [number for number in texts[has] if number not in texts[lacks]]
        if missing:
            raise UserError(
                f"{name}: document {document} has no segment {missing[0]} in {language} "
                f"({len(missing)} are missing); remove the document, or give its reference"
            )
    for number, text in texts[0].items():
        yield text, texts[1][number]


# ------------------------------------------------------------------------------- records


def find_sides(
    file: RecordFile, head: Head, languages: Pair, fields: Sequence[str]
) -> tuple[str, str]:
    """Return the names of the fields with source and target, below ``translation`` or not.

    Raises:
        UserError: the file has no such fields.
    """
    names = set(file.fields)
    if "translation" in names and file.samples:
        inner = file.samples[0].get("translation")
        names = set(inner) if isinstance(inner, Mapping) else names
    if fields:
        if set(fields) <= names:
            return fields[0], fields[1]
        raise UserError(f"{head.place}: --fields {','.join(fields)}: {file.named()}")
    for source, target in (languages, *SIDES):
        if {source, target} <= names:
            return source, target
    raise UserError(
        f"{head.place}: {file.named()}: neither {' and '.join(languages)} nor source and target "
        "are among them; name the fields by --fields SOURCE,TARGET"
    )


def read_sides(
    file: RecordFile, sides: Pair, stream: ByteStream, name: str, report: CorpusReport
) -> Iterator[Pair]:
    """Yield the pairs of records; a side that is no text is empty."""
    for record in read_record_file(file, stream, name, report):
        inner: Any = record.fields.get("translation")
        fields = inner if isinstance(inner, Mapping) else record.fields
        source, target = (fields.get(side) for side in sides)
        yield (
            source if isinstance(source, str) else "",
            target if isinstance(target, str) else "",
        )


def find_columns(head: Head, fields: Sequence[str]) -> tuple[Dialect, tuple[int, int]]:
    """Return the columns of a table without a header, from 0.

    Raises:
        UserError: the file has no columns, or more than two and ``fields`` does not number them.
    """
    first = next(iter(head.spoken), "")
    delimiter = "\t" if "\t" in first else next((d for d in DELIMITERS if d in first), None)
    if delimiter is None or not fields and delimiter != "\t":
        raise UserError(
            f"{head.place}: a single file of lines without columns (first line {head.shown()}); "
            "give the two files as SOURCE,TARGET"
        )
    width = first.count(delimiter) + 1
    if not fields and width != 2:
        raise UserError(
            f"{head.place}: {width} columns (first line {head.shown()}); name those of source and "
            "target by --fields, as 1,2"
        )
    if not all(field.isdigit() and 1 <= int(field) <= width for field in fields):
        raise UserError(
            f"{head.place}: --fields {','.join(fields)}: give two numbers from 1 to {width}"
        )
    columns = (int(fields[0]) - 1, int(fields[1]) - 1) if fields else (0, 1)
    return Dialect(delimiter, quoted=delimiter != "\t"), columns


def read_columns(
    dialect: Dialect, columns: tuple[int, int], stream: ByteStream, name: str, report: CorpusReport
) -> Iterator[Pair]:
    """Yield the pairs in two columns of a table; a row that lacks one has an empty side."""
    for row in read_rows(stream, name, report, dialect):
        cells = [row.cells[i] if i < len(row.cells) else "" for i in columns]
        yield cells[0], cells[1]

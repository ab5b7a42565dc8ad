"""Recognise the layout of a file of dialogs; what is not recognised is refused."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import UserError
from ..corpus.heads import Format, Head, refuse_foreign, unknown_layout
from ..corpus.parquet import MAGIC
from ..corpus.plausible import doubts, is_header, labels, share, share_labelled
from ..corpus.record_files import JSON_LINES, TABLE, RecordFile, recognise
from ..corpus.tables import DELIMITERS, Dialect, is_header_row
from ..corpus.tfrecord import is_tfrecord
from .shapes import Shape, find_shape
from .subtitles import TIMING
from .text_formats import END_OF_UTTERANCE, SPEAKER

PAGE = "docs/dialogs.md"

FORMATS = (
    Format(
        "amazon",
        "Python dicts with question and answer",
        "{'question': 'Does it fit?', 'answer': 'Yes.'}",
    ),
    Format(
        "polyai",
        "JSON lines with context, context/0, ... and response",
        '{"context": "Who is it?", "context/0": "Hello?", "response": "Me."}',
    ),
    Format("tfrecord", "the same fields as tf.train.Example", "(binary)"),
    Format(
        "conversations",
        "records with a list of turns",
        '{"turns": ["Hello?", "Who is it?", "Me."]}',
    ),
    Format(
        "messages",
        "records with a list of messages, as OpenAI and ShareGPT write them",
        '{"messages": [{"role": "user", "content": "Hello?"}, '
        '{"role": "assistant", "content": "Who is it?"}]}',
    ),
    Format(
        "pairs",
        "records with q and a, prompt and response, instruction and output, ...",
        '{"prompt": "Hello?", "response": "Who is it?"}',
    ),
    Format(
        "csv",
        "a table with such columns in its header",
        "question;answer\nHello?;Who is it?",
    ),
    Format("parquet", "the same records as parquet", "PAR1"),
    Format("tsv", "the turns of a dialog, separated by tabs", "Hello?\tWho is it?\tMe."),
    Format("eou", "a dialog a line, with __eou__ after each utterance",
           "Hello ? __eou__ Who is it ? __eou__"),
    Format("labelled", "lines that begin with their speaker",
           "User: Hello?\nBot: Who is it?\nUser: Me.\nBot: Come in."),
    Format("subtitles", "SubRip (.srt) or WebVTT (.vtt)",
           "1\n00:00:01,000 --> 00:00:02,000\nHello?\n"
           "\n2\n00:00:03,000 --> 00:00:04,000\nWho is it?"),
    Format("opus", "the XML of OPUS, with <s> around a sentence",
           '<?xml version="1.0"?>\n<document>\n<s id="1">Hello?</s>\n<s id="2">Who is it?</s>'
           "\n</document>"),
    Format("lines", "every line answers those before it; an empty line ends a document",
           "Hello?\nWho is it?\nMe."),
)  # fmt: skip
NAMES = tuple(one.name for one in FORMATS)

_SPEAKERS = frozenset(
    "user bot human assistant person agent customer system ai a b q chatbot gpt speaker me you "
    "question answer client operator doctor patient model".split()
)
_NUMERIC = re.compile(r"\s*[A-Za-z_-]{0,10}[+-]?\d[\d.,:eE+-]*\s*")


class Layout(NamedTuple):
    """How a file is read."""

    format: str
    reason: str
    records: RecordFile | None = None
    shape: Shape | None = None  # of records
    columns: tuple[int, ...] = ()  # of a table without a header: the turns, from 0


def find_layout(head: Head, asked: str | None = None, fields: Sequence[str] = ()) -> Layout:
    """Return the layout of a file, judged by its content and by its name.

    Args:
        head: the beginning of the file.
        asked: value of ``--format``; None recognises it.
        fields: value of ``--fields``: names of the fields of a query and its response, or numbers
            of columns from 1.

    Raises:
        UserError: the layout is not known, or the file lacks the fields.
    """
    if asked == "tfrecord" or not asked and is_tfrecord(head.data):
        return Layout("tfrecord", "--format" if asked else "content begins with a checksum")
    if not head.data.startswith(MAGIC):
        refuse_foreign(head)
    if fields:
        return _by_fields(head, fields)
    if asked and asked not in ("polyai", "conversations", "messages", "pairs", "csv", "parquet"):
        return Layout(asked, "--format")
    if not asked and not head.data.startswith(MAGIC):
        found = _by_content(head)
        if found:
            return found
    return _of_records(head, asked) or _of_lines(head, asked)


def _by_content(head: Head) -> Layout | None:
    """Return the layout of XML, subtitles and Python dicts, which no other layout resembles."""
    lines = head.spoken
    if head.begins(r"<\?xml|<!DOCTYPE|<(?:document|text|body|s)\b"):
        text = "\n".join(head.lines)
        if re.search(r"<s[\s>]", text):
            return Layout("opus", "XML with <s>")
        root = re.search(r"<([A-Za-z][\w:.-]*)", text)
        element = f"<{root[1]}>" if root else "no element"
        raise unknown_layout(head, f"XML of {element} without <s>", FORMATS, PAGE)
    times = sum(TIMING.match(line) is not None for line in lines)
    if times and (times >= 0.1 * len(lines) or head.name.endswith((".srt", ".vtt"))):
        return Layout("subtitles", "times of subtitles")
    if head.name.endswith((".srt", ".vtt")):
        raise unknown_layout(head, "a subtitle file without times", FORMATS, PAGE)
    if any(line.lstrip().startswith("{'") for line in lines[:50]):
        return Layout("amazon", "Python dicts")
    return None


def _of_records(head: Head, asked: str | None) -> Layout | None:
    """Return the layout of a file of records, or None if it has none.

    Raises:
        UserError: its fields hold no dialog that is known.
    """
    file = recognise(head)
    is_json = head.name.endswith((".json", ".jsonl", ".ndjson"))
    if file is None and asked and (is_json or asked not in ("csv", "parquet")):
        file = RecordFile(JSON_LINES, [])  # a damaged file: every line is judged
    if file is None:
        if asked in ("csv", "parquet") or is_json and head.spoken:
            raise unknown_layout(head, "no records with named fields in it", FORMATS, PAGE)
        return None
    shape = find_shape(file)
    if asked in ("polyai", "conversations", "messages", "pairs"):
        default = {"polyai": ("context", "response"), "pairs": ("q", "a")}.get(asked, ("turns",))
        if shape is None or shape.format != asked:
            shape = Shape(asked, default)
        return Layout(asked, "--format", file, shape)
    if shape is None:
        if file.encoding == TABLE and not head.name.endswith((".csv", ".tsv")):
            return None  # perhaps a sentence with commas, not a header
        if file.encoding == TABLE and head.name.endswith(".tsv") and not is_header(head.spoken[0]):
            return None
        seen = f"{file.named()}, which hold no known dialog: name two by --fields QUERY,RESPONSE"
        raise unknown_layout(head, seen, FORMATS, PAGE)
    name = "csv" if file.encoding == TABLE else shape.format
    if file.encoding == "parquet":
        name = "parquet"
    return Layout(name, "--format" if asked else shape.reason, file, shape)


def _of_lines(head: Head, asked: str | None) -> Layout:
    """Return the layout of a text.

    Raises:
        UserError: the layout is not known.
    """
    lines = head.spoken
    if lines and share(lines, lambda line: END_OF_UTTERANCE in line) >= 0.5:
        return Layout("eou", f"{END_OF_UTTERANCE} between utterances")
    if _is_labelled(lines):
        return Layout("labelled", "lines begin with a speaker")
    if head.name.endswith((".csv", ".parquet")):
        raise unknown_layout(head, "no header, or rows with other numbers of cells", FORMATS, PAGE)
    tabs = share(lines, lambda line: "\t" in line)
    if head.name.endswith(".tsv") or tabs > 0.5:
        seen = _doubts_of_columns(lines)
        if seen is None:
            return Layout("tsv", "tabs" if tabs else "extension .tsv")
        raise unknown_layout(head, seen, FORMATS, PAGE)
    seen = doubts(head)
    if seen:
        raise unknown_layout(head, seen, FORMATS, PAGE)
    if lines and sorted(map(len, lines))[len(lines) // 2] > 400:
        raise unknown_layout(head, "half of its lines have over 400 characters", FORMATS, PAGE)
    return Layout("lines", "plain lines")


def _is_labelled(lines: Sequence[str]) -> bool:
    if len(lines) < 2:
        return False
    found = labels(lines)
    known = sum(n for name, n in found.items() if re.sub(r"[\s\d_-]+$", "", name) in _SPEAKERS)
    if known >= 0.6 * len(lines) and len(found) >= 2 and SPEAKER.match(lines[0]):
        return True
    several = sum(n >= 0.1 * len(lines) for n in found.values()) >= 2
    return len(lines) >= 12 and several and share_labelled(lines) >= 0.9


def _doubts_of_columns(lines: Sequence[str]) -> str | None:
    """Return why columns are no turns, or None: a header, numbers, an id, or a label."""
    rows = [line.split("\t") for line in lines]
    if lines and (is_header(lines[0]) or is_header_row(rows[0], rows[1:])):
        names = " and ".join(rows[0][:2])
        return f"the first line looks like names of columns: if they are, give --fields, as {names}"
    widths = {len(row) for row in rows}
    if len(rows) < 5:
        return None
    if share(lines, re.compile(r"\s*\d{1,4} +\S").match) >= 0.9:
        return "its lines begin with numbers"
    if len(widths) != 1:
        return None
    for column in range(widths.pop()):
        cells = [row[column] for row in rows]
        where = f"column {column + 1} of its table"
        if share(cells, _NUMERIC.fullmatch) >= 0.9:
            return f"{where} holds numbers or ids: name the columns with turns by --fields, as 1,2"
        if len(cells) >= 50 and len(set(cells)) <= 10 and max(map(len, cells)) <= 20:
            return f"{where} holds few values, as labels: name the others by --fields, as 1,2"
    return None


def _by_fields(head: Head, fields: Sequence[str]) -> Layout:
    if all(field.isdigit() for field in fields):
        first = next(iter(head.spoken), "")
        delimiter = next((d for d in ("\t", *DELIMITERS) if d in first), None)
        if delimiter is None:
            raise UserError(f"{head.place}: --fields {','.join(fields)}: its first line has no "
                            f"columns ({head.shown()})")  # fmt: skip
        dialect = Dialect(delimiter, quoted=delimiter != "\t")
        columns = tuple(int(field) - 1 for field in fields)
        if min(columns) < 0 or max(columns) > first.count(delimiter):
            raise UserError(f"{head.place}: --fields {','.join(fields)}: its first line has "
                            f"{first.count(delimiter) + 1} columns")  # fmt: skip
        return Layout("csv", "--fields", RecordFile(TABLE, [], dialect), columns=columns)
    file = recognise(head)
    missing = [field for field in fields if file is None or field not in file.fields]
    if file is None or missing:
        seen = file.named() if file else "no records with named fields"
        raise UserError(f"{head.place}: --fields {','.join(fields)}: {seen}")
    return Layout("pairs", "--fields", file, Shape("pairs", tuple(fields[:2])))

"""Read JSON lines: one record a line, whose field ``text`` may contain line breaks."""

import json
import os
from collections.abc import Iterator

from ...errors import UserError
from .text_lines import decode_line, open_binary

FIELD = "text"


def is_json_lines(path: str | os.PathLike[str]) -> bool:
    """Return whether the name of a file ends with ``.jsonl``."""
    return os.fspath(path).endswith(".jsonl")


def decode_record(line: bytes, path: str | os.PathLike[str], number: int) -> str:
    """Return the text of one line.

    Args:
        line: the bytes of the line.
        path: the file, for the error message.
        number: 1-based number of the line.

    Raises:
        UserError: the line is not UTF-8, not JSON, or has no text.
    """
    try:
        record = json.loads(decode_line(line, path, number))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not JSON ({error}); correct or remove it") from None
    text = record.get(FIELD) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{path}:{number}: not an object with a string in its field {FIELD!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path}:{number}: its text has half of a surrogate pair (\\ud800 to \\udfff), which "
            "is not a character; correct or remove it"
        ) from None
    return text


def read_texts(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the texts of a file: those of JSON lines (``.jsonl``), or else its lines.

    Raises:
        UserError: a line is damaged.
    """
    decode = decode_record if is_json_lines(path) else decode_line
    with open_binary(path) as stream:
        for number, line in enumerate(stream, start=1):
            yield decode(line, path, number)

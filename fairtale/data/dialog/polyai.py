"""Read PolyAI's conversational-datasets: JSON lines, or TFRecord files with the same fields.

``context`` is the query, ``context/0`` is the turn before it, ``context/1`` is the turn before
that, and so on; ``response`` is the response. The group is ``file_id`` (subtitles),
``product_id`` (Amazon) or ``thread_id`` (Reddit).

Source: Henderson et al. 2019, "A Repository of Conversational Datasets".
"""

from collections.abc import Iterator
from typing import Any

from ..corpus.records import ByteStream
from ..corpus.report import INVALID_UTF8
from ..corpus.tfrecord import parse_example, read_tfrecord
from .records import DialogReport, RawDialog

NO_CONTEXT = "no context or no response"
BROKEN_CHECKSUM = "wrong checksum"
NOT_AN_EXAMPLE = "not a tf.train.Example"

_GROUPS = ("file_id", "product_id", "thread_id")


def read_polyai_tfrecord(
    stream: ByteStream, name: str, report: DialogReport
) -> Iterator[RawDialog]:
    """Read the dialogs of a TFRecord file.

    Args:
        stream: a binary file.
        name: name of the file, for the report.
        report: counts damaged records, including those with a wrong checksum.

    Raises:
        UserError: the file is truncated, or the length of a record is damaged.
    """
    for number, data in read_tfrecord(stream, name):
        place = f"{name}:record {number}"
        if data is None:
            report.skip(BROKEN_CHECKSUM, place)
            continue
        try:
            features = parse_example(data)
            record = {key: values[0].decode("utf-8") for key, values in features.items()}
        except UnicodeDecodeError:
            report.skip(INVALID_UTF8, place)
            continue
        except ValueError:
            report.skip(NOT_AN_EXAMPLE, place)
            continue
        yield from read_polyai_record(record, place, report)


def read_polyai_record(
    record: dict[str, Any], place: str, report: DialogReport
) -> Iterator[RawDialog]:
    """Yield the dialog of a record of JSON lines or of a TFRecord file."""
    query, response = record.get("context"), record.get("response")
    if not (isinstance(query, str) and isinstance(response, str)):
        report.skip(NO_CONTEXT, place)
        return
    turns = [response, query]
    while isinstance(turn := record.get(f"context/{len(turns) - 2}"), str):
        turns.append(turn)
    groups = (record.get(key) for key in _GROUPS)
    group = next((g for g in groups if isinstance(g, str) and g), turns[-1])
    yield RawDialog(turns[::-1], group, place)

"""Conversations of MongoDB collections as a file that `fairtale dialogs` reads."""

from __future__ import annotations

import json

from ..data.documents.records import DocumentReport
from ..data.documents.sources import SourceOptions, find_sources
from ..errors import UserError
from .files import whole_file
from .prepare import say


def write_conversations(source: str, path: str, strict: bool) -> None:
    """Write the questions and answers of collections as JSON lines, in the order of the config.

    Args:
        source: ``mongo:CONFIG.json``.
        path: the file to write.
        strict: stop at a document that cannot be read instead of leaving it out.

    Raises:
        UserError: the server does not answer, or a document is a work.
    """
    report, count = DocumentReport(strict), 0
    with whole_file(path) as stream:
        for collection in find_sources([source], SourceOptions(), report):
            for document in collection.read(report, lambda num_bytes: None):
                if document.answer is None:
                    raise UserError(
                        f"--source {source}: {document.place} is a work, without q and a; make "
                        "data of works with: fairtale prepare documents"
                    )
                pair = {"q": document.text, "a": document.answer}
                stream.write(json.dumps(pair, ensure_ascii=False) + "\n")
                count += 1
    for kind, skipped in report.skipped.items():
        say("%s: %d left out, %s", source, skipped, kind)
    say("%s: %d conversations", source, count)

"""Fill a collection with documents, so that a second import of the same files changes nothing."""

from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import UserError
from ..corpus.report import TOO_LONG
from .cleaning import CleaningRules, clean_document
from .mongo_collections import KEY, IndexedCollection, Record
from .mongo_server import MongoServer
from .mongo_source import ANSWER, ID, QUESTION, RAW, TEXT, WORK
from .records import (
    TURN_SEPARATOR,
    Document,
    DocumentReport,
    DocumentSource,
    OnBytes,
    RawDocument,
)

MAX_BYTES = (16 << 20) - 1024  # MongoDB takes 16 MiB, and needs a little for the names
_BATCH_DOCUMENTS = 500
_BATCH_BYTES = 1 << 24


class Importer:
    """Numbers documents from 0 in their order, and writes those that a collection lacks.

    A document is stored as ``{idx, form, filt_text}``, with the text as it was read and as it was
    cleaned, or as ``{idx, q, a}``; ``id`` and ``work`` are added where the source has them.

    Args:
        server: the connection.
        name: name of the collection.
        rules: how the texts are cleaned.
        report: counts the documents that are kept and left out.
    """

    def __init__(
        self, server: MongoServer, name: str, rules: CleaningRules, report: DocumentReport
    ) -> None:
        self._server = server
        self.collection = IndexedCollection(server, name)
        self._name = name
        self._rules = rules
        self._report = report
        self._is_dialog: bool | None = None
        self.num_read = self.num_written = 0

    def run(self, sources: Iterable[DocumentSource], on_bytes: OnBytes) -> int:
        """Write all documents, and return how many the collection had already.

        Raises:
            UserError: the collection has other documents at the same numbers, or the sources mix
                works and conversations.
        """
        self.collection.ensure_index(unique=True)
        batch, size = list[Record](), 0
        for record in self._records(sources, on_bytes):
            num_bytes = _num_bytes(record)
            if num_bytes > MAX_BYTES:
                place = str(record.get(ID, f"document {record[KEY]}"))
                self._report.skip(
                    TOO_LONG, f"{place} ({num_bytes:,} bytes; MongoDB takes 16 MiB a document)"
                )
                continue
            record[KEY] = self.num_read
            self.num_read += 1
            batch.append(record)
            size += num_bytes
            if len(batch) >= _BATCH_DOCUMENTS or size >= _BATCH_BYTES:
                self._write(batch)
                batch, size = [], 0
        if batch:
            self._write(batch)
        return self.num_read - self.num_written

    def _records(self, sources: Iterable[DocumentSource], on_bytes: OnBytes) -> Iterator[Record]:
        for source in sources:
            for raw in source.read(self._report, on_bytes):
                document = clean_document(raw, self._rules, self._report)
                if document is None:
                    continue
                if self._is_dialog is None:
                    self._is_dialog = document.is_dialog
                if self._is_dialog != document.is_dialog:
                    raise UserError(
                        f"{document.place}: works and conversations are mixed; import them into "
                        "two collections, each with a config of its own"
                    )
                self._report.keep(document)
                yield _record(raw, document)

    def _write(self, batch: list[Record]) -> None:
        """Write the documents of a batch that are missing, and compare the others."""
        keys = {"$gte": batch[0][KEY], "$lte": batch[-1][KEY]}

        def work(database: Any) -> tuple[int, int | None]:
            collection = database[self._name]
            found = {r[KEY]: r for r in collection.find({KEY: keys}, {"_id": 0})}
            missing = [record for record in batch if record[KEY] not in found]
            for record in batch:
                if record[KEY] in found and found[record[KEY]] != record:
                    return 0, record[KEY]
            if missing:  # copies, because the driver adds a field to what it inserts
                collection.insert_many([dict(record) for record in missing], ordered=True)
            return len(missing), None

        num_written, other = self._server.run(work)
        if other is not None:
            raise UserError(
                f"{self.collection.place}: its document with {KEY} {other} is not the one of these "
                "files; import all files of a collection together and in the same order, or "
                "choose another collection"
            )
        self.num_written += num_written


def _record(raw: RawDocument, document: Document) -> Record:
    record: Record = {KEY: -1}
    if document.is_dialog:
        record[QUESTION], record[ANSWER] = document.text.split(TURN_SEPARATOR)
    else:
        record[RAW] = raw.text.encode("utf-8", "replace").decode()
        record[TEXT] = document.text.encode("utf-8", "replace").decode()
    if document.group is not None:  # without it, the name is only a place
        record[ID] = document.name
        if document.group != document.name:
            record[WORK] = document.group
    return record


def _num_bytes(record: Record) -> int:
    return sum(len(v.encode("utf-8", "replace")) for v in record.values() if isinstance(v, str))

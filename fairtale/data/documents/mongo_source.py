"""The documents of collections as a source."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from ..corpus.report import EMPTY, TOO_LONG
from .fields import FieldNames
from .json_lines import name_of
from .mongo_collections import KEY, IndexedCollection, Key, Record
from .mongo_server import MongoServer
from .records import NO_FIELD, NOT_TEXT, DocumentReport, OnBytes, RawDocument

TEXT, RAW = "filt_text", "form"  # of documents: the cleaned text, and as it was read
QUESTION, ANSWER = "q", "a"  # of conversations
ID, WORK = "id", "work"  # optional

# Reasons to leave out documents.
DOUBLE = f"{KEY} that an earlier document has"
NO_KEY = f"no number in {KEY}"
BROKEN_KEY = f"{KEY} that is not a whole number"


class MongoRange:
    """A source of the documents of a collection in a range of ``idx``, in its order.

    Of documents with the same ``idx``, the first is read, and the others are counted.

    Args:
        collection: the collection.
        after: the range begins behind this ``idx``; None: at the first.
        last: the last ``idx`` of the range.
        fields: names of the fields.
        markup: markup of the texts; None for texts that are filtered already.
        max_chars: maximum length of a document.
    """

    path = None  # not a file

    def __init__(
        self,
        collection: IndexedCollection,
        after: Key | None,
        last: Key,
        fields: FieldNames,
        markup: str | None,
        max_chars: int,
    ) -> None:
        self._collection = collection
        self._after = after
        self._last = last
        self._fields = fields
        self._markup = markup
        self._max_chars = max_chars

    def read(self, report: DocumentReport, on_bytes: OnBytes) -> Iterator[RawDocument]:
        """Yield the documents; those that hold no text are counted."""
        for _, document in self.read_keys(report):
            if document is not None:
                on_bytes(len(document.text.encode("utf-8", "replace")))
                yield document

    def read_keys(self, report: DocumentReport) -> Iterator[tuple[Key, RawDocument | None]]:
        """Yield every ``idx`` of the range, with its document unless that is left out."""
        after, place = self._after, self._collection.place
        while True:
            batch = self._collection.read_batch(after, self._last)
            if batch.last is None:
                return
            for key in batch.doubles:
                report.skip(DOUBLE, f"{place}:{key}")
            for _ in range(batch.num_doubles - len(batch.doubles)):
                report.skip(DOUBLE, place)
            after = batch.last
            records = deque(batch.records)
            del batch
            while records:  # a document is dropped as soon as it is read
                record = records.popleft()
                yield record[KEY], self._document(record, f"{place}:{record[KEY]}", report)

    def _document(self, record: Record, place: str, report: DocumentReport) -> RawDocument | None:
        if record[KEY] != int(record[KEY]):
            report.skip(BROKEN_KEY, place)
            return None
        fields = self._fields
        is_dialog = QUESTION in record and fields.text is None and TEXT not in record
        names = (QUESTION, ANSWER) if is_dialog else (fields.text or TEXT,)
        texts = [self._text(record, name, place, report) for name in names]
        if None in texts:
            return None
        for name in (fields.id, fields.work):
            if name is not None and name_of(record, name) is None:
                report.skip(f"{NO_FIELD}: {name}", place)
                return None
        name = name_of(record, fields.id or ID)
        group = name_of(record, fields.work or WORK) or name
        unnamed = f"{self._collection.name}/{record[KEY]}"
        answer = texts[1] if is_dialog else None
        # what `fairtale mongo import` or another program has filtered is not filtered again
        filtered = self._markup is None and not is_dialog
        markup = self._markup or "plain"
        assert texts[0] is not None
        return RawDocument(
            name or unnamed, texts[0], markup, place, group, answer=answer, is_filtered=filtered
        )

    def _text(
        self, record: dict[str, Any], name: str, place: str, report: DocumentReport
    ) -> str | None:
        """Return the text in a field, or None if there is none, which is counted."""
        text = record.get(name)
        if name not in record:
            report.skip(f"{NO_FIELD}: {name}", place)
        elif text is None:
            report.leave_out(EMPTY, place)
        elif not isinstance(text, str):
            report.skip(f"{NOT_TEXT} ({type(text).__name__}), field {name}", place)
        elif len(text) > self._max_chars:
            report.skip(TOO_LONG, f"{place} ({len(text):,} characters)")
        else:
            return text
        return None


class MongoCollection:
    """A source of all documents of a collection.

    Args:
        server: the connection.
        name: name of the collection.
        fields, markup, max_chars: as in :class:`MongoRange`.

    Raises:
        UserError: the collection is empty, or its documents are not numbered.
    """

    path = None  # not a file

    def __init__(
        self,
        server: MongoServer,
        name: str,
        fields: FieldNames,
        markup: str | None,
        max_chars: int,
    ) -> None:
        self.collection = IndexedCollection(server, name)
        self._options = (fields, markup, max_chars)
        self.bounds = self.collection.find_bounds()
        if self.bounds is not None:
            self.collection.ensure_index()

    def read(self, report: DocumentReport, on_bytes: OnBytes) -> Iterator[RawDocument]:
        """Yield the documents that the collection had when it was opened."""
        self.report_unnumbered(report)
        if self.bounds is not None:
            yield from self.range(None, self.bounds.last).read(report, on_bytes)

    def report_unnumbered(self, report: DocumentReport) -> None:
        """Count the documents without ``idx``, which no range holds."""
        if self.bounds is not None:
            for _ in range(self.collection.count_without_key()):
                report.skip(NO_KEY, self.collection.place)

    def range(self, after: Key | None, last: Key) -> MongoRange:
        """Return the source of a range of ``idx``."""
        return MongoRange(self.collection, after, last, *self._options)

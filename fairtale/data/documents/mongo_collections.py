"""Read the documents of a collection by ranges of their field ``idx``."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ...errors import UserError
from .mongo_config import META_COLLECTION
from .mongo_server import MongoServer

KEY = "idx"
# Also a server that compares values of different types finds only numbers in this range.
_NUMBERS = {"$gte": -(1 << 63), "$lte": (1 << 63) - 1}
_BATCH_DOCUMENTS = 500
_BATCH_CHARS = 1 << 24  # about as much as a server sends at once
_BATCH_KEYS = 20_000
_NUM_PLACES_NAMED = 3

Key = int | float
Record = dict[str, Any]


class Bounds(NamedTuple):
    """The lowest and the highest ``idx`` of a collection, and its number of documents."""

    first: Key
    last: Key
    num_documents: int  # as the server estimates it


class Batch(NamedTuple):
    """Consecutive documents of a range."""

    records: list[Record]  # in order of idx, each idx once
    num_doubles: int  # further documents whose idx is that of a record
    doubles: list[Key]  # the first such idx
    last: Key | None  # the last idx that was read; None: the range has no more documents


class KeyStatistics(NamedTuple):
    """What ``idx`` looks like in a collection."""

    num_documents: int
    num_without: int  # documents without a number in idx
    first: Key | None
    last: Key | None
    num_missing: int  # whole numbers between first and last that no document has
    gaps: list[tuple[Key, Key]]  # the first of them, as the idx before and behind
    num_doubles: int  # documents whose idx an earlier one has
    doubles: list[Key]  # the first such idx
    num_broken: int  # documents whose idx is a number, but not a whole one


class IndexedCollection:
    """A collection whose documents are numbered by ``idx``.

    No cursor outlives a call, so a server may go away and come back between two calls.

    Args:
        server: the connection.
        name: name of the collection.
    """

    def __init__(self, server: MongoServer, name: str) -> None:
        self.name = name
        self._server = server

    @property
    def config_path(self) -> str:
        """The file of the config."""
        return self._server.config.path

    @property
    def place(self) -> str:
        """The collection, for messages: config and name."""
        return f"{self._server.config.path}:{self.name}"

    def ensure_index(self, unique: bool = False) -> None:
        """Make an index on ``idx`` unless there is one, whatever its name."""

        def work(database: Any) -> None:
            collection = database[self.name]
            for index in collection.index_information().values():
                if index["key"][0][0] == KEY and not index.get("partialFilterExpression"):
                    return
            collection.create_index([(KEY, 1)], unique=unique)

        self._server.run(work)

    def find_bounds(self) -> Bounds | None:
        """Return the bounds; None for a collection that is missing or empty.

        Raises:
            UserError: no document has a number in ``idx``.
        """

        def work(database: Any) -> tuple[list[Any], int]:
            collection = database[self.name]
            ends = [
                collection.find_one({KEY: _NUMBERS}, {KEY: 1, "_id": 0}, sort=[(KEY, order)])
                for order in (1, -1)
            ]
            return ends, collection.estimated_document_count()

        (first, last), count = self._server.run(work)
        if first is None or last is None:
            if not count:
                return None
            raise UserError(
                f"{self.place}: none of its {count:,} documents has a number in {KEY}; number "
                "them, or fill another collection with `fairtale mongo import`"
            )
        return Bounds(first[KEY], last[KEY], count)

    def count_without_key(self) -> int:
        """Return how many documents have no number in ``idx``, so that reading leaves them out."""

        def work(database: Any) -> int:
            collection = database[self.name]
            every: int = collection.estimated_document_count()
            return every - int(collection.count_documents({KEY: _NUMBERS}))

        return max(0, self._server.run(work))

    def end_of_range(self, after: Key | None, last: Key, count: int) -> Key:
        """Return the ``idx`` up to which a range has about ``count`` documents."""

        def work(database: Any) -> list[Any]:
            found = database[self.name].find(_range(after, last), {KEY: 1, "_id": 0})
            return list(found.sort([(KEY, 1)]).skip(count - 1).limit(1))

        found = self._server.run(work)
        return found[0][KEY] if found else last

    def read_batch(self, after: Key | None, last: Key, limit: int = _BATCH_DOCUMENTS) -> Batch:
        """Return the first documents of a range.

        Args:
            after: the range begins behind this ``idx``; None: at the first.
            last: the last ``idx`` of the range.
            limit: maximum number of documents; fewer are read if they are long.
        """

        def work(database: Any) -> tuple[list[Record], bool]:
            found = database[self.name].find(_range(after, last), {"_id": 0})
            records, size = list[Record](), 0
            with found.sort([(KEY, 1)]).limit(limit) as cursor:
                for record in cursor:
                    records.append(record)
                    size += sum(len(v) for v in record.values() if isinstance(v, str))
                    if size >= _BATCH_CHARS:
                        break
            return records, len(records) == limit or size >= _BATCH_CHARS

        records, is_cut = self._server.run(work)
        kept, doubles = list[Record](), list[Key]()
        for record in records:
            if kept and record[KEY] == kept[-1][KEY]:
                doubles.append(record[KEY])
            else:
                kept.append(record)
        if not kept:
            return Batch([], 0, [], None)
        end = kept[-1][KEY]
        num_doubles = len(doubles)
        if is_cut:  # further documents may have the last idx
            more = self._count(end) - sum(record[KEY] == end for record in records)
            num_doubles += more
            doubles += [end] * (more > 0)
        return Batch(kept, num_doubles, doubles[:_NUM_PLACES_NAMED], end)

    def _count(self, key: Key) -> int:
        """Return how many documents have an ``idx``."""
        # Not count_documents, which reads the whole collection on some servers.
        return self._server.run(
            lambda d: sum(1 for _ in d[self.name].find({KEY: key}, {KEY: 1, "_id": 0}))
        )

    def statistics(self) -> KeyStatistics:
        """Read every ``idx``, in memory that does not grow with their number."""
        total = self._server.run(lambda d: d[self.name].estimated_document_count())
        numbered, num_missing, num_doubles, num_broken = 0, 0, 0, 0
        gaps, doubles = list[tuple[Key, Key]](), list[Key]()
        first: Key | None = None
        before: Key | None = None
        for key in self._keys():
            numbered += 1
            num_broken += key != int(key)
            if before is None:
                first = key
            elif key == before:
                num_doubles += 1
                if len(doubles) < _NUM_PLACES_NAMED and key not in doubles:
                    doubles.append(key)
            elif key > before + 1:
                num_missing += int(key - before) - 1
                if len(gaps) < _NUM_PLACES_NAMED:
                    gaps.append((before, key))
            before = key
        count = max(int(total), numbered)
        return KeyStatistics(
            count, count - numbered, first, before, num_missing, gaps, num_doubles, doubles,
            num_broken,
        )  # fmt: skip

    def _keys(self) -> Iterator[Key]:
        """Yield every ``idx`` in order, also doubles."""
        after: Key | None = None
        while True:

            def work(database: Any, after: Key | None = after) -> list[Key]:
                values = _NUMBERS if after is None else {**_NUMBERS, "$gt": after}
                values = {k: v for k, v in values.items() if after is None or k != "$gte"}
                found = database[self.name].find({KEY: values}, {KEY: 1, "_id": 0})
                return [r[KEY] for r in found.sort([(KEY, 1)]).limit(_BATCH_KEYS)]

            keys = self._server.run(work)
            if not keys:
                return
            yield from keys
            after = keys[-1]
            if len(keys) == _BATCH_KEYS:
                yield from [after] * (self._count(after) - keys.count(after))


def _range(after: Key | None, last: Key) -> dict[str, Any]:
    low = {"$gte": _NUMBERS["$gte"]} if after is None else {"$gt": after}
    return {KEY: {**low, "$lte": last}}


def stated_counts(server: MongoServer) -> dict[str, Any]:
    """Return ``num_docs`` of each collection that ``meta_info`` names."""

    def work(database: Any) -> dict[str, Any]:
        found = database[META_COLLECTION].find({}, {"_id": 0})
        return {
            record["collection_name"]: record.get("num_docs")
            for record in found
            if isinstance(record.get("collection_name"), str)
        }

    return server.run(work)


def state_count(server: MongoServer, name: str, count: int) -> None:
    """Write the number of documents of a collection to ``meta_info``."""
    server.run(
        lambda database: database[META_COLLECTION].update_one(
            {"collection_name": name}, {"$set": {"num_docs": count}}, upsert=True
        )
    )

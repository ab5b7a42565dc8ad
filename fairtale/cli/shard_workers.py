"""Clean and encode documents in worker processes, for ``fairtale documents --tokenizer``."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..data.corpus.byte_level_files import load_byte_level
from ..data.corpus.split import SUBSETS, text_hash
from ..data.corpus.tokenizer_dictionary import read_dictionary
from ..data.dialog.line_format import MARKS
from ..data.documents.cleaning import CleaningRules, clean_document
from ..data.documents.mongo_collections import IndexedCollection, Key
from ..data.documents.mongo_config import load_config
from ..data.documents.mongo_server import MongoServer
from ..data.documents.mongo_source import MongoRange
from ..data.documents.records import Document, DocumentReport, RawDocument
from ..data.documents.sources import SourceOptions
from ..errors import UserError
from .documents import WorkSplitter
from .spm_dialog import DialogEncoder, LeftOut

# A result has at most about this many characters; the rest of its range is another task.
_RESULT_CHARS = 1 << 25
_MAX_UNKNOWN = 0  # unknown pieces of a turn; byte-level pieces are never unknown


class Place(NamedTuple):
    """How far the sources are read."""

    source: int = 0  # index of the source
    num_read: int = 0  # documents of this source that are read, unless it is a collection
    after: Key | None = None  # the last idx that is read, if it is a collection


@dataclass
class Task:
    """Documents to encode: those that were read, or a range of a collection.

    Args:
        end: the place behind them.
        raws: documents that were read.
        first: the place before them, if they are a range.
        report: what reading has counted.
        num_units: their share of the progress bar.
    """

    end: Place
    raws: list[RawDocument] = field(default_factory=list)
    first: Place | None = None
    report: DocumentReport = field(default_factory=DocumentReport)
    num_units: int = 0


class Rows(NamedTuple):
    """Rows of tokens, and the documents that they are made of."""

    tokens: npt.NDArray[Any]  # of all rows one after the other, int [sum of sizes]
    sizes: npt.NDArray[np.int32]  # number of tokens of each row, [rows]
    subsets: npt.NDArray[np.uint8]  # index of the subset of each row, [rows]
    hashes: npt.NDArray[np.int64]  # of the text of each row, [rows]
    chars: npt.NDArray[np.int64]  # number of characters of each row, [rows]
    places: list[str]  # where each row was read


@dataclass
class Encoded:
    """The result of a task.

    Args:
        rows: the encoded documents.
        report: what cleaning has counted.
        found: names of ``--valid-works`` and ``--test-works`` that occurred.
        num_read: number of documents, with those that were left out.
        end: the place behind the rows.
        rest: the rest of a range that was too long for one result.
    """

    rows: Rows
    report: DocumentReport
    found: set[str]
    num_read: int
    end: Place
    rest: Task | None


class Collection(NamedTuple):
    """A collection as a worker opens it."""

    config: str  # path
    name: str


@dataclass(frozen=True)
class Plan:
    """What a worker must know.

    Args:
        tokenizer, dictionary: paths.
        rules, options: how documents are read and cleaned.
        splitter: assigns them to subsets.
        collections: the collections among the sources, by their index.
        strict: damaged documents are errors.
    """

    tokenizer: str
    dictionary: str
    rules: CleaningRules
    options: SourceOptions
    splitter: WorkSplitter
    collections: dict[int, Collection]
    strict: bool


class ShardWorker:
    """Encodes documents; one for each process."""

    def __init__(self, plan: Plan) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are already several processes
        self._plan = plan
        self._bpe = load_byte_level(plan.tokenizer)
        self._dictionary = read_dictionary(plan.dictionary)
        self._eos: int = self._dictionary.eos()
        self._indices = np.array([self._dictionary.index(piece) for piece in self._bpe.pieces])
        self._dialogs = DialogEncoder(self._bpe.encode_many, _MAX_UNKNOWN)
        self._servers: dict[str, MongoServer] = {}

    def __call__(self, task: Task) -> Encoded:
        """Clean and encode the documents of a task."""
        report = DocumentReport(self._plan.strict)
        documents, num_read, size = list[Document](), 0, 0
        end, rest = task.end, None
        for place, raw in self._read(task, report):
            num_read += 1
            if raw is not None:
                document = clean_document(raw, self._plan.rules, report)
                if document is not None:
                    documents.append(document)
                    size += len(document.text)
            if size >= _RESULT_CHARS and task.first is not None and place != task.end:
                end, rest = place, Task(task.end, first=place)
                break
        rows = self._encode(documents, report)
        return Encoded(rows, report, self._plan.splitter.take_found(), num_read, end, rest)

    def _read(
        self, task: Task, report: DocumentReport
    ) -> Iterator[tuple[Place, RawDocument | None]]:
        if task.first is None:
            for raw in task.raws:
                yield task.end, raw
            return
        source = task.first.source
        described = self._plan.collections[source]
        if described.config not in self._servers:
            config = load_config(described.config)
            self._servers[described.config] = MongoServer(config, self._plan.options.wait)
        collection = IndexedCollection(self._servers[described.config], described.name)
        options, last = self._plan.options, task.end.after
        assert last is not None
        documents = MongoRange(
            collection, task.first.after, last, options.fields, options.markup, options.max_chars
        )
        for key, found in documents.read_keys(report):
            yield Place(source, after=key), found

    def _encode(self, documents: list[Document], report: DocumentReport) -> Rows:
        kept, rows = list[Document](), list[npt.NDArray[Any]]()
        for document, row in zip(documents, self._rows(documents), strict=True):
            if isinstance(row, LeftOut):
                report.leave_out(row.reason, document.place)
                continue
            kept.append(document)
            rows.append(row)
        subsets = [SUBSETS.index(self._plan.splitter.subset(document)) for document in kept]
        return Rows(
            np.concatenate(rows) if rows else np.zeros(0, np.int64),
            np.array([len(row) for row in rows], np.int32),
            np.array(subsets, np.uint8),
            np.array([text_hash(d.text) for d in kept], np.uint64).view(np.int64),
            np.array([len(document.text) for document in kept], np.int64),
            [document.place for document in kept],
        )

    def _rows(self, documents: list[Document]) -> Iterable[npt.NDArray[Any] | LeftOut]:
        """Yield the tokens of each document, with the end symbol, as fairseq-preprocess does."""
        works = [document.text for document in documents if not document.is_dialog]
        lines = [document.text for document in documents if document.is_dialog]
        if lines and any(mark not in self._dictionary.indices for mark in MARKS):
            raise UserError(
                f"{self._plan.dictionary}: lacks {' and '.join(MARKS)}, which rows of questions "
                "and answers need: train the tokenizer with fairtale bpe train --dialog, or with "
                f"--symbols {' '.join(map(repr, MARKS))}"
            )
        ids = iter(self._bpe.encode_ids_many(works) if works else ())
        dialogs = iter(self._dialogs(lines).texts if lines else ())
        for document in documents:
            if not document.is_dialog:
                yield np.append(self._indices[next(ids)], self._eos)
                continue
            text = next(dialogs)
            if isinstance(text, LeftOut):
                yield text
                continue
            pieces = [self._dictionary.index(piece) for piece in text.split(" ")]
            yield np.array([*pieces, self._eos])


_worker: ShardWorker | None = None  # set once in each worker process


def start_worker(plan: Plan) -> None:
    """Make this process a worker."""
    global _worker
    _worker = ShardWorker(plan)


def encode_task(task: Task) -> Encoded:
    """Encode the documents of a task in this process."""
    assert _worker is not None  # start_worker has set it
    return _worker(task)

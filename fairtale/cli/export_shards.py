"""Write documents as shards of tokens: the second half of ``fairtale documents --tokenizer``.

Documents are read in their order, cleaned and encoded by several processes, and written by one.
After each second, what is written, what was counted and how far the sources are read are stored
together, so that a run that was killed goes on there. The shards are the same as without a crash,
and whatever the number of processes.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.corpus.byte_level_files import TOKENIZER_JSON
from ..data.corpus.report import DUPLICATE
from ..data.corpus.shard_writer import Position, ShardWriter, token_type
from ..data.corpus.split import SUBSETS
from ..data.corpus.tokenizer_dictionary import read_dictionary
from ..data.corpus.whole_folder import STAMP, describe_source, is_ready
from ..data.documents.export_state import ExportState, locked_folder
from ..data.documents.mongo_config import PREFIX
from ..data.documents.mongo_source import MongoCollection
from ..data.documents.records import DocumentReport, DocumentSource
from ..errors import UserError
from .corpus_output import CorpusOutput, check_counts, check_losses, summary, write_json
from .model_tokenizer import DICTIONARY
from .progress import progress_bar
from .shard_workers import Collection, Encoded, Place, Plan, Task, encode_task, start_worker
from .workers import WorkerPool, worker_pool

logger = logging.getLogger(__name__)

_TASK_DOCUMENTS = 1_000
_TASK_CHARS = 1 << 22
_TASK_BYTES = 1 << 15  # of files, that are worth a process of their own
_SECONDS_BETWEEN_COMMITS = 1.0


class Export:
    """An export into a folder that appears complete or not at all.

    Args:
        sources: the sources.
        plan: what the workers must know.
        output: the folder and the subsets.
        rows_per_shard: number of documents of each shard of the training set but the last.
        report: counts what is left out; it lists the sources.
        settings: entries of report.json.
    """

    def __init__(
        self,
        sources: list[DocumentSource],
        plan: Plan,
        output: CorpusOutput,
        rows_per_shard: int,
        report: DocumentReport,
        settings: dict[str, Any],
    ) -> None:
        self._sources = sources
        self._plan = plan
        self._output = output
        self._rows_per_shard = rows_per_shard
        self._report = report
        self._settings = settings
        self._folder = os.path.normpath(output.folder)
        self._work = f"{self._folder}.partial"
        self._made = os.path.join(self._work, "made")
        self._place = Place()
        self._num_read = 0
        self._writers: dict[str, ShardWriter] = {}
        self._committed = 0.0

    def run(self, lines: list[str], contents: list[str], num_workers: int) -> None:
        """Export everything that is not exported yet.

        Args:
            lines: the settings, which an unfinished export must share.
            contents: further settings, which only a finished folder must share: what the sources
                held when its export began.
            num_workers: number of processes.

        Raises:
            UserError: another process writes into the folder, it has other settings, it cannot be
                written, or a subset is empty.
        """
        stamp = [*lines, *contents]
        if is_ready(self._folder, stamp) and not os.path.isdir(self._work):
            return
        with locked_folder(self._work):
            if is_ready(self._folder, stamp):  # another process has just made it, or was killed
                shutil.rmtree(self._work, ignore_errors=True)
                return
            os.makedirs(self._made, exist_ok=True)
            # The processes begin before the database of the state is opened.
            with worker_pool(self._useful(num_workers), start_worker, self._plan) as pool:
                state = ExportState(os.path.join(self._work, "state.sqlite"), lines)
                try:
                    self._export(pool, state, stamp)
                finally:
                    state.close()
                    for writer in self._writers.values():
                        writer.close()
        print(*self._report.lines(), sep="\n")
        print(summary(self._counts(), self._folder))

    def _useful(self, num_workers: int) -> int:
        """Return how many processes at most have something to do."""
        total, unit = self._total()
        if total is None:
            return num_workers
        return min(num_workers, 1 + total // (_TASK_BYTES if unit == "B" else _TASK_DOCUMENTS))

    def _export(self, pool: WorkerPool, state: ExportState, stamp: list[str]) -> None:
        stamp = self._resume(state, stamp)
        total, unit = self._total()
        with progress_bar(
            total, unit, self._output.many, unit_scale=True, disable=self._output.quiet,
            initial=self._num_read if unit != "B" else 0,
        ) as bar:  # fmt: skip
            for task, encoded in pool.map(encode_task, self._tasks(bar)):
                self._report.add(task.report)
                while True:
                    self._write(encoded, state)
                    bar.update(encoded.num_read if unit != "B" else task.num_units)
                    if encoded.rest is None:
                        break
                    [(task, encoded)] = pool.map(encode_task, [encoded.rest])
                self._commit(state)
        self._place = Place(len(self._sources))
        self._commit(state, now=True)
        self._finish(stamp)

    # ----------------------------------------------------------------------------- progress

    def _resume(self, state: ExportState, stamp: list[str]) -> list[str]:
        """Go on where the state ends, or begin; return the settings of the finished folder."""
        had = state.get("progress") or {}
        if had:
            self._place = Place(*had["place"])
            self._num_read = had["num_read"]
            self._report.set_counted(had["report"])
            self._plan.splitter.add_found(had["found"])
            logger.info("== going on behind %s documents", f"{self._num_read:,}")
        # Documents that are added to a collection while it is exported wait for another export.
        lasts = state.get("lasts")
        if lasts is None:
            state.put("lasts", [self._last(i) for i in range(len(self._sources))])
            state.put("stamp", stamp)
            state.commit()
        self._lasts = state.get("lasts")
        dtype = token_type(len(read_dictionary(self._plan.dictionary)))
        for name in self._output.wanted:
            position = Position(*had["written"][name]) if had else None
            most = self._rows_per_shard if name == "train" else None
            self._writers[name] = ShardWriter(self._made, self._work, name, dtype, most, position)
        found: list[str] = state.get("stamp")
        return found

    def _last(self, index: int) -> Any:
        source = self._sources[index]
        if isinstance(source, MongoCollection) and source.bounds is not None:
            return source.bounds.last
        return None

    def _commit(self, state: ExportState, now: bool = False) -> None:
        if not now and time.monotonic() < self._committed + _SECONDS_BETWEEN_COMMITS:
            return
        for writer in self._writers.values():
            writer.sync()
        progress = {
            "place": self._place,
            "num_read": self._num_read,
            "report": self._report.counted(),
            "found": sorted(self._plan.splitter.found),
            "written": {name: writer.position for name, writer in self._writers.items()},
        }
        state.put("progress", progress)
        state.commit()
        self._committed = time.monotonic()

    def _total(self) -> tuple[int | None, str]:
        """Return the length of the progress bar and its unit."""
        collections = [s for s in self._sources if isinstance(s, MongoCollection)]
        if not collections:
            paths = [source.path for source in self._sources if source.path is not None]
            return sum(map(os.path.getsize, paths)), "B"
        if len(collections) < len(self._sources):
            return None, " documents"
        return sum(c.bounds.num_documents for c in collections if c.bounds), " documents"

    # ------------------------------------------------------------------------------- tasks

    def _tasks(self, bar: Any) -> Iterator[Task]:
        """Yield the documents behind the place where the state ends."""
        begin = self._place
        reading = DocumentReport(self._report.strict)
        task = Task(begin)
        size = 0

        def on_bytes(count: int) -> None:
            task.num_units += count

        for index in range(begin.source, len(self._sources)):
            source = self._sources[index]
            skipped = begin.num_read if index == begin.source else 0
            if isinstance(source, MongoCollection):
                if task.raws:
                    yield self._closed(task, reading)
                    task, size = Task(Place(index)), 0
                after = begin.after if index == begin.source else None
                yield from self._ranges(index, source, after, reading)
                continue
            for count, raw in enumerate(source.read(reading, on_bytes), start=1):
                if count <= skipped:
                    if count == skipped:  # all of this was counted before
                        reading.take()
                        bar.update(task.num_units)
                        task.num_units = 0
                    continue
                task.raws.append(raw)
                task.end = Place(index, count)
                size += len(raw.text)
                if len(task.raws) >= _TASK_DOCUMENTS or size >= _TASK_CHARS:
                    yield self._closed(task, reading)
                    task, size = Task(Place(index, count)), 0
        task.end = Place(len(self._sources))
        yield self._closed(task, reading)

    @staticmethod
    def _closed(task: Task, reading: DocumentReport) -> Task:
        task.report = reading.take()
        return task

    def _ranges(
        self, index: int, source: MongoCollection, after: Any, reading: DocumentReport
    ) -> Iterator[Task]:
        """Yield the ranges of a collection."""
        last = self._lasts[index]
        if after is None:
            source.report_unnumbered(reading)
        while last is not None and (after is None or after < last):
            end = source.collection.end_of_range(after, last, _TASK_DOCUMENTS)
            task = Task(Place(index, after=end), first=Place(index, after=after))
            yield self._closed(task, reading)
            after = end

    # ----------------------------------------------------------------------------- writing

    def _write(self, encoded: Encoded, state: ExportState) -> None:
        """Write the rows whose text is new."""
        rows = encoded.rows
        self._report.add(encoded.report)
        self._plan.splitter.add_found(encoded.found)
        is_new = np.array([state.is_new(int(h)) for h in rows.hashes], bool)
        for place in (p for p, new in zip(rows.places, is_new) if not new):
            self._report.skip(DUPLICATE, place)
        self._report.num_kept += int(is_new.sum())
        self._report.num_chars += int(rows.chars[is_new].sum())
        of_token = np.repeat(np.where(is_new, rows.subsets, len(SUBSETS)), rows.sizes)
        for name, writer in self._writers.items():
            number = SUBSETS.index(name)
            wanted = is_new & (rows.subsets == number)
            if wanted.any():
                writer.append(rows.tokens[of_token == number], rows.sizes[wanted])
        self._num_read += encoded.num_read
        self._place = encoded.end

    def _counts(self) -> dict[str, int]:
        return {name: writer.num_rows for name, writer in self._writers.items()}

    def _finish(self, stamp: list[str]) -> None:
        try:
            check_counts(self._output, self._report, self._counts(), self._settings["sources"])
            check_losses(self._report, self._output.max_loss)
            self._plan.splitter.check_all_found()
        except UserError:
            shutil.rmtree(self._work, ignore_errors=True)  # other options are needed
            raise
        for writer in self._writers.values():
            writer.finish()
        shutil.copyfile(self._plan.dictionary, os.path.join(self._made, DICTIONARY))
        shutil.copyfile(self._plan.tokenizer, os.path.join(self._made, TOKENIZER_JSON))
        entries = {**self._report.as_dict(), "subsets": self._counts(), **self._settings}
        # not whole_file, whose temporary files a killed run would leave in the folder
        with open(os.path.join(self._made, "report.json"), "w", encoding="utf-8") as stream:
            write_json(entries, stream)
        text = "\n".join(stamp) + "\n"
        Path(self._made, STAMP).write_text(text, encoding="utf-8", errors="surrogateescape")
        for path in Path(self._made).iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        os.rename(self._made, self._folder)
        shutil.rmtree(self._work, ignore_errors=True)


def collections_of(sources: list[DocumentSource]) -> dict[int, Collection]:
    """Return the collections among the sources, by their index."""
    return {
        index: Collection(source.collection.config_path, source.collection.name)
        for index, source in enumerate(sources)
        if isinstance(source, MongoCollection)
    }


def settings_of(names: list[str], sources: list[DocumentSource]) -> tuple[list[str], list[str]]:
    """Return the sources as settings, and what the collections among them hold."""
    files = [describe_source(name) for name in names if not name.startswith(PREFIX)]
    collections = [source for source in sources if isinstance(source, MongoCollection)]
    places = [source.collection.place for source in collections]
    bounds = [" ".join(map(str, source.bounds or ())) for source in collections]
    return (
        [*(f"source {text}" for text in files), *(f"collection {place}" for place in places)],
        [f"content {place} {held}" for place, held in zip(places, bounds)],
    )

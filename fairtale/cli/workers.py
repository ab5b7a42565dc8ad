"""Work spread over processes, with results in the order of the tasks."""

import collections
import concurrent.futures
import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ..errors import UserError

# Tasks under way per worker; more would only fill memory when the reader is ahead.
_TASKS_PER_WORKER = 4

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerPool:
    """Processes that were started with the same state, or this process alone.

    Args:
        executor: of the processes; None lets this process do the work.
        num_workers: how many there are.
    """

    def __init__(
        self, executor: concurrent.futures.Executor | None = None, num_workers: int = 1
    ) -> None:
        self._executor = executor
        self._num_ahead = _TASKS_PER_WORKER * num_workers

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in order.

        ``Executor.map`` would read all tasks ahead; here only so many are under way as keep the
        workers busy.

        Args:
            function: of a module, since it is sent to the workers by its name.
            tasks: what it is called with.
        """
        if self._executor is None:
            for task in tasks:
                yield task, function(task)
            return
        under_way: collections.deque[tuple[Task, concurrent.futures.Future[Result]]]
        under_way = collections.deque()
        for task in tasks:
            under_way.append((task, self._executor.submit(function, task)))
            if len(under_way) >= self._num_ahead:
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()


def _start(initialize: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches the whole group; only the parent answers it, by ending the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    initialize(*arguments)


@contextlib.contextmanager
def worker_pool(
    num_workers: int, initialize: Callable[..., object], *arguments: Any
) -> Iterator[WorkerPool]:
    """Start processes that work on tasks; one worker is this process itself.

    Args:
        num_workers: at least 1.
        initialize: called with ``arguments`` once in each process.

    Raises:
        UserError: a worker was killed.
    """
    if num_workers == 1:
        initialize(*arguments)
        yield WorkerPool()
        return
    # An executor, for a multiprocessing.Pool waits for ever when a worker is killed.
    executor = concurrent.futures.ProcessPoolExecutor(
        num_workers, initializer=_start, initargs=(initialize, arguments)
    )
    try:
        # Start them now: forking is safe only before the progress bar's thread exists.
        executor.submit(int).result()
        yield WorkerPool(executor, num_workers)
    except BrokenProcessPool:
        raise UserError(
            f"a worker process died; memory may be short: try fewer than --workers {num_workers}"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

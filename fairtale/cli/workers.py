"""Distribute tasks over processes, and return the results in the order of the tasks."""

import collections
import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ..errors import UserError

_SECONDS_BETWEEN_LOOKS = 1.0

# Maximum number of pending tasks per worker; more would only use memory.
_TASKS_PER_WORKER = 4

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerPool:
    """A pool of processes that were initialised equally, or this process alone.

    Args:
        executor: executor of the processes; None to do the work in this process.
        num_workers: number of processes.
    """

    def __init__(
        self, executor: concurrent.futures.Executor | None = None, num_workers: int = 1
    ) -> None:
        self._executor = executor
        self._num_ahead = _TASKS_PER_WORKER * num_workers

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order of the tasks.

        Unlike ``Executor.map``, this method does not read all tasks in advance: it only keeps as
        many tasks pending as the workers need.

        Args:
            function: a module-level function, because it is sent to the workers by its name.
            tasks: arguments of the function.
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
    # Ctrl-C sends SIGINT to all processes. The parent handles it by shutting down the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A killed parent cannot end its workers, which would wait for tasks for ever.
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    initialize(*arguments)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


@contextlib.contextmanager
def worker_pool(
    num_workers: int, initialize: Callable[..., object], *arguments: Any
) -> Iterator[WorkerPool]:
    """Start a pool of worker processes; with one worker, this process does the work.

    Args:
        num_workers: number of workers, at least 1.
        initialize: called with ``arguments`` once in each process.
        arguments: arguments of ``initialize``.

    Yields:
        the pool.

    Raises:
        UserError: a worker was killed.
    """
    if num_workers == 1:
        initialize(*arguments)
        yield WorkerPool()
        return
    # Not multiprocessing.Pool, which waits for ever if a worker is killed.
    executor = concurrent.futures.ProcessPoolExecutor(
        num_workers, initializer=_start, initargs=(initialize, arguments)
    )
    try:
        # Start the processes now, because forking is safe only without the progress bar's thread.
        executor.submit(int).result()
        yield WorkerPool(executor, num_workers)
    except BrokenProcessPool:
        raise UserError(
            f"a worker process was killed, maybe for lack of memory; lower --workers {num_workers}"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

"""Stop the threads and processes that load data in time."""

import atexit
import os
import threading
import weakref
from typing import Any

import torch
from fairseq.data import iterators
from torch.utils.data import dataloader


def cure_buffer_thread() -> None:
    """Stop the threads that prefetch batches before the interpreter exits.

    fairseq uses daemon threads. If one of them is inside C++ code when the interpreter exits, a
    finished training ends with status 134. Remove this work-around once ``BackgroundConsumer`` can
    be stopped.
    """
    consumers: weakref.WeakSet[Any] = weakref.WeakSet()
    closing = threading.Event()

    def run(self: Any) -> None:
        consumers.add(self)
        if self.cuda_device is not None:
            torch.cuda.set_device(self.cuda_device)

        def put(item: Any) -> None:
            while not closing.is_set():
                try:
                    return self._queue.put(item, timeout=0.1)
                except iterators.queue.Full:
                    continue

        try:
            for item in self._source:
                put(item)
                self.count += 1
                if closing.is_set() or (self._max_len is not None and self.count >= self._max_len):
                    break
            put(iterators._sentinel)
        except Exception as error:
            put(error)

    def close() -> None:
        closing.set()
        for consumer in list(consumers):
            consumer.join(timeout=10)

    iterators.BackgroundConsumer.run = run
    atexit.register(close)


def cure_data_workers() -> None:
    """Let data-loading processes exit by themselves as soon as their iterator is deleted.

    fairseq's iterators are parts of reference cycles. The garbage collector may close the queue to
    a worker before torch has sent the request to exit through it; torch then waits five seconds and
    kills the worker. A worker that is forked before the collection inherits the cycle, and fails
    with "can only test a child process" when it deletes it. Remove this work-around once fairseq's
    iterators form no cycles.
    """
    cls: Any = dataloader._MultiProcessingDataLoaderIter
    start, dismiss = cls.__init__, cls._shutdown_workers

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        self._owner = os.getpid()
        start(self, *args, **kwargs)
        # a reference from outside the cycle keeps the queues open until the iterator is deleted
        queues = (self._index_queues, self._worker_result_queue)
        weakref.finalize(self, lambda _: None, queues).atexit = False

    def _shutdown_workers(self: Any) -> None:
        if self._owner == os.getpid():
            dismiss(self)

    cls.__init__, cls._shutdown_workers = __init__, _shutdown_workers

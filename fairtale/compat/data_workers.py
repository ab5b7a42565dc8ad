"""Cures of threads and processes that read data and outlive their use."""

import atexit
import os
import threading
import weakref
from typing import Any

import torch
from fairseq.data import iterators
from torch.utils.data import dataloader


def cure_buffer_thread() -> None:
    """Stop the threads that read batches ahead before Python ends.

    fairseq's are daemon threads. One that is inside C++ code when the interpreter goes away ends
    a finished training with status 134. Needless once ``BackgroundConsumer`` can be stopped.
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
    """Let the processes that read data leave by themselves, at once.

    fairseq's iterators end in reference cycles. The garbage collector closes the queue to a
    worker before torch can dismiss the worker through it, so torch waits five seconds and kills
    it; and a worker forked meanwhile inherits the garbage ("can only test a child process").
    Needless once fairseq's iterators form no cycles.
    """
    cls: Any = dataloader._MultiProcessingDataLoaderIter
    start, dismiss = cls.__init__, cls._shutdown_workers

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        self._owner = os.getpid()
        start(self, *args, **kwargs)
        # a reference from outside the cycle keeps the queues open longer than their iterator
        queues = (self._index_queues, self._worker_result_queue)
        weakref.finalize(self, lambda _: None, queues).atexit = False

    def _shutdown_workers(self: Any) -> None:
        if self._owner == os.getpid():
            dismiss(self)

    cls.__init__, cls._shutdown_workers = __init__, _shutdown_workers

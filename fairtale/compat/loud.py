"""Cures of what stops or clutters: NumPy 2, threads and workers that hang, logging at import."""

import atexit
import logging
import os
import sys
import threading
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import torch
from fairseq.data import data_utils, iterators


def cure_numpy_names():
    """NumPy 2 dropped ``np.compat`` and ``percentile(interpolation=)``.

    Needless once fairseq says ``np.int64`` and ``method=``.
    """
    if not hasattr(np, "compat"):
        np.compat = SimpleNamespace(long=int)

    def get_buckets(sizes, num_buckets):
        marks = np.linspace(0, 100, num_buckets + 1)
        return np.unique(np.percentile(sizes, marks, method="lower")[1:])

    data_utils.get_buckets = get_buckets


def cure_buffer_thread():
    """A data thread still running at exit ends a finished training with status 134.

    The daemon thread is inside C++ code when the interpreter goes away. It is now asked to
    stop, and waited for. Needless once ``BackgroundConsumer`` can be stopped.
    """
    consumers, closing = weakref.WeakSet(), threading.Event()

    def run(self):
        consumers.add(self)
        if self.cuda_device is not None:
            torch.cuda.set_device(self.cuda_device)

        def put(item):
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

    def close():
        closing.set()
        for consumer in list(consumers):
            consumer.join(timeout=10)

    iterators.BackgroundConsumer.run = run
    atexit.register(close)


def cure_data_workers():
    """Each data worker that has done its work holds training up for five seconds.

    fairseq's iterators end in cycles. The garbage collector closes the queue to a worker
    before torch can dismiss the worker through it; and a worker forked meanwhile inherits
    the garbage ("can only test a child process"). Needless once iterators end otherwise.
    """
    cls = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    start, dismiss = cls.__init__, cls._shutdown_workers

    def __init__(self, *args, **kwargs):
        self._owner = os.getpid()
        start(self, *args, **kwargs)
        # what is referred to from outside is not closed before its iterator
        queues = (self._index_queues, self._worker_result_queue)
        weakref.finalize(self, lambda _: None, queues).atexit = False

    def _shutdown_workers(self):
        if self._owner == os.getpid():
            dismiss(self)

    cls.__init__, cls._shutdown_workers = __init__, _shutdown_workers


def cure_import_logging():
    """Importing fairseq turns on DEBUG logging on stderr; each prompt is given four log lines.

    ``wav2vec2_classification.py`` calls ``basicConfig(level=DEBUG)`` when imported, before most
    commands say how they want to log. They are given what they ask for in vain.
    """
    if os.environ.get("LOGLEVEL", "").upper() != "DEBUG":
        logging.getLogger("fairseq.tasks.fairseq_task").setLevel(logging.WARNING)
    root = logging.getLogger()
    handler = root.handlers[0] if len(root.handlers) == 1 else None
    if root.level != logging.DEBUG or getattr(handler, "stream", None) is not sys.stderr:
        return  # somebody has set up logging on purpose
    root.setLevel(os.environ.get("LOGLEVEL", "INFO").upper())
    form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S"))
    handler.setStream(sys.stdout)


def cure_known_warnings():
    """Warnings about fairseq's own code, which its users can do nothing about."""
    for text in (
        r"[\s\S]*version_base parameter is not specified",
        r"'pin_memory' argument is set as true but no accelerator",
        r"`torch.cuda.amp.autocast\(args...\)` is deprecated",
        r"[\s\S]*weight_norm`? is deprecated",
        r"hydra.experimental.\w+\(\) is no longer experimental",
        r"[\s\S]*In 'config': Usage of deprecated keyword in package header",
        r"[\s\S]*'config' is validated against ConfigStore schema",
        r"[\s\S]*The strict flag in the compose API is deprecated",
    ):
        warnings.filterwarnings("ignore", message=text)

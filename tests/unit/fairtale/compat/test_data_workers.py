"""Stopping the threads and processes that load data."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq.data import iterators

ROOT = Path(__file__).resolve().parents[4]


def test_data_thread_is_stopped_at_exit():
    """No thread is running when Python exits; fairseq's own consumer still is."""
    code = """
import atexit, sys, threading
from fairseq.data import iterators

def report():  # registered first, runs last
    names = [type(t).__name__ for t in threading.enumerate() if t.is_alive()]
    print("left:", "BackgroundConsumer" in names)

atexit.register(report)
if sys.argv[1] == "cured":
    import user_dir

class Endless:
    def __len__(self):
        return 10**9
    def __iter__(self):
        while True:
            yield 1

assert next(iterators.BufferedIterator(2, Endless())) == 1
"""
    for name, left in (("cured", "False"), ("stock", "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=600,  # a time limit, in case the process hangs
        )
        assert f"left: {left}" in done.stdout, done.stderr[-2000:]


def test_data_thread_hands_over_everything():
    items = list(range(50))
    assert list(iterators.BufferedIterator(3, items)) == items


def test_data_thread_hands_over_an_error():
    def broken():
        yield 1
        raise ValueError("broken")

    class Source:
        def __len__(self):
            return 2

        def __iter__(self):
            return broken()

    buffered = iterators.BufferedIterator(3, Source())
    assert next(buffered) == 1
    with pytest.raises(ValueError, match="broken"):
        next(buffered)


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index


def dead_iterator_in_a_cycle():
    """Return the worker of a data loader that only the garbage collector can end."""
    loader = torch.utils.data.DataLoader(Numbers(), num_workers=1, persistent_workers=True)
    iterator = iter(loader)
    assert [int(number) for number in iterator] == list(range(6))
    holder = {"loader": loader, "iterator": iterator}
    holder["self"] = holder
    return iterator._workers[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork, which is Linux's way
def test_data_workers_are_dismissed():
    """A worker exits by itself (0); without the work-around, torch kills it after five seconds."""
    gc.collect()
    worker = dead_iterator_in_a_cycle()
    assert worker.is_alive()
    gc.collect()
    worker.join(timeout=60)
    assert worker.exitcode == 0

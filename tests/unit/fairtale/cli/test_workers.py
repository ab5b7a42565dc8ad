"""Work in several processes: results in the order of the tasks, few of them read ahead."""

import os
import signal

import pytest

from fairtale.cli.workers import worker_pool
from fairtale.errors import UserError

_factor = 0


def start(factor):
    global _factor
    _factor = factor


def multiply(task):
    return task * _factor, os.getpid()


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_order(num_workers):
    with worker_pool(num_workers, start, 3) as pool:
        results = list(pool.map(multiply, range(100)))
    assert [task for task, _ in results] == list(range(100))
    assert [product for _, (product, _) in results] == [3 * i for i in range(100)]
    here = {process for _, (_, process) in results} == {os.getpid()}
    assert here == (num_workers == 1)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_tasks_are_read_as_they_are_needed(num_workers):
    taken = []

    def tasks():
        for number in range(1000):
            taken.append(number)
            yield number

    with worker_pool(num_workers, start, 3) as pool:
        next(pool.map(multiply, tasks()))
        assert len(taken) <= 4 * num_workers


def test_a_killed_worker_is_an_error():
    with (
        pytest.raises(UserError, match="a worker process was killed.*--workers 2"),
        worker_pool(2, start, 3) as pool,
    ):
        list(pool.map(die, range(9)))

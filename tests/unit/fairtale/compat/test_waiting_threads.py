"""Threads that wait use no processor time, in verbs and in fairseq's commands."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from fairtale.cli.main import main
from fairtale.compat.waiting_threads import let_waiting_threads_sleep

ROOT = Path(__file__).resolve().parents[4]

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# Processor time, not time of the clock: other work on the machine does not change it.
MEASURE = """
import json, sys, time
import torch
from fairtale.compat.waiting_threads import let_waiting_threads_sleep

def used_by_waiting():
    numbers = torch.zeros(1 << 17)
    numbers.add_(1)
    before = time.process_time()
    for _ in range(100):
        numbers.add_(1)
        time.sleep(0.004)
    return time.process_time() - before

before = used_by_waiting()
let_waiting_threads_sleep()
let_waiting_threads_sleep()
print(json.dumps([torch.get_num_threads(), before, used_by_waiting()]))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: torch has one thread")
def test_threads_of_a_process_that_has_loaded_torch():
    env = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    env |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-c", MEASURE]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    threads, before, after = json.loads(done.stdout)
    assert threads > 1
    assert after < before / 3


@pytest.mark.parametrize("decided", [*VARIABLES, None])
def test_the_environment_decides(decided, monkeypatch):
    started = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 if decided == "OMP_NUM_THREADS" else 2)
    monkeypatch.setattr(threading.Thread, "start", lambda self: started.append(self._target()))
    monkeypatch.setattr(threading.Event, "wait", lambda self: None)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if decided:
        monkeypatch.setenv(decided, "1")
    let_waiting_threads_sleep.__wrapped__()  # without the memory of earlier calls
    assert len(started) == (decided is None)


@pytest.mark.parametrize("given, policy", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_verbs_set_the_policy_before_torch_is_loaded(given, policy, monkeypatch, capsys):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that monkeypatch restores it
        monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["user-dir"])
    assert os.environ["OMP_WAIT_POLICY"] == policy

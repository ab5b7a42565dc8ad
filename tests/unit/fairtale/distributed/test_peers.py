"""Signs of life of processes, and the reasons for which they end."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist

from fairtale.distributed import peers
from fairtale.distributed.peers import PeerWatch


@pytest.fixture
def pair():
    """Watches of two processes with one store; the threads are not started."""
    store = dist.HashStore()
    return [PeerWatch(store, rank, 2) for rank in range(2)]


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_first_reason_stays(pair):
    assert pair[0].posted_reason() is None
    pair[1].post("first")
    pair[0].post("second")
    assert pair[0].posted_reason() == pair[1].find_reason(0) == "first"


def test_a_process_of_this_host_that_is_no_more(pair):
    assert pair[0]._death_of_neighbour() is None and pair[0].find_reason(0) is None
    who = {"host": socket.gethostname(), "pid": dead_process()}
    pair[0].store.set("who/1", json.dumps(who))
    reason = f"worker 1 (process {who['pid']} on {who['host']}) has died without a message"
    assert pair[0]._death_of_neighbour().startswith(reason)
    assert pair[0].find_reason(0).startswith(reason)
    pair[1].finish()
    assert pair[0]._death_of_neighbour() is None and pair[0].find_reason(0) is None


def test_a_killed_process_that_its_parent_has_not_waited_for(pair):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pair[0].store.set("who/1", json.dumps({"host": socket.gethostname(), "pid": process.pid}))
    assert not pair[0]._is_dead_here(1)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert pair[0]._is_dead_here(1)
    process.wait()


def test_a_process_of_another_host_without_signs_of_life(pair, monkeypatch):
    pair[0].store.set("who/1", json.dumps({"host": "elsewhere", "pid": 1}))
    pair[0].store.set("alive/1", "1")
    assert pair[0]._death_of_neighbour() is None  # a new sign
    assert pair[0]._death_of_neighbour() is None  # the same, but not for long
    monkeypatch.setattr(peers, "PATIENCE", -1.0)
    assert "worker 1 (process 1 on elsewhere) has died" in pair[0]._death_of_neighbour()
    pair[0].store.set("alive/1", "2")
    assert pair[0]._death_of_neighbour() is None


def test_errors_of_communication():
    error = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert peers._is_of_communication(error)
    assert peers._is_of_communication(dist.DistBackendError("NCCL error"))
    assert not peers._is_of_communication(RuntimeError("shapes do not match"))
    assert not peers._is_of_communication(KeyError("peer"))


# A process that is in the store all the time when the interpreter ends: in another thread, torch
# then aborts.
ENDING = """
import sys
from types import SimpleNamespace
import torch.distributed as dist
from torch.distributed import distributed_c10d
from fairtale.distributed import peers

store = dist.TCPStore("127.0.0.1", 0, 1, True)
distributed_c10d._get_default_store = lambda: store
peers.dist = SimpleNamespace(
    is_initialized=lambda: True, get_world_size=lambda: 2, get_rank=lambda: 0
)
peers.INTERVAL = 0.0
watch = peers.watch_peers()
while watch._seen[0] == b"":
    store.add("peers/alive/1", 1)
sys.exit("failed" if sys.argv[1:] else 0)
"""


@pytest.mark.parametrize("words", [[], ["an error"]])
def test_the_thread_ends_before_the_interpreter(words):
    done = subprocess.run([sys.executable, "-c", ENDING, *words], capture_output=True, text=True)
    assert done.returncode == len(words), done.stderr


def test_a_single_process_is_not_watched():
    assert peers.watch_peers() is None

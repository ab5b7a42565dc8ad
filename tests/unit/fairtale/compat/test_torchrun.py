"""Training processes that torchrun has launched."""

import pytest

from tests.compat_helpers import parse


@pytest.fixture
def torchrun(monkeypatch):
    def set_environment(world, rank):
        values = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
        values.update(MASTER_ADDR="localhost", MASTER_PORT=1)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_environment


def test_torchrun_is_joined(torchrun):
    torchrun(4, 3)
    args = parse("--cpu")
    assert (args.distributed_world_size, args.distributed_rank, args.device_id) == (4, 3, 3)
    assert args.distributed_init_method == "env://" and args.distributed_no_spawn
    assert (args.distributed_backend, args.ddp_backend) == ("gloo", "legacy_ddp")


def test_torchrun_of_one_process_is_no_group(torchrun):
    torchrun(1, 0)
    args = parse("--cpu")
    assert args.distributed_world_size == 1 and args.distributed_init_method is None


def test_options_given_win_over_torchrun(torchrun):
    torchrun(2, 1)
    args = parse("--cpu", "--ddp-backend", "no_c10d", "--distributed-backend", "mpi")
    assert (args.distributed_backend, args.ddp_backend) == ("mpi", "no_c10d")
    args = parse("--distributed-init-method", "tcp://host:1", "--distributed-world-size", "8")
    assert args.distributed_world_size == 8 and args.distributed_rank == 0


def test_without_torchrun_nothing_changes(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    args = parse("--cpu")
    assert args.distributed_init_method is None and not args.distributed_no_spawn
    assert args.ddp_backend == "pytorch_ddp"

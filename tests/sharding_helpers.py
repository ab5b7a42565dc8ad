"""Runs trainings of tiny models in several forked processes of one test process."""

import os
import sys
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

from tests import finetuning_helpers

SECONDS = 120  # a guard against hanging, nothing is timed


def together(num_processes, folder, work):
    """Run ``work(rank)`` in processes that have a gloo group; return what they return, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    children = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = _run(rank, num_processes, folder, work)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert statuses == [0] * num_processes, statuses
    return [
        torch.load(folder / f"{rank}.result", weights_only=False) for rank in range(num_processes)
    ]


def _run(rank, num_processes, folder, work):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), num_processes)
    dist.init_process_group(
        "gloo",
        store=store,
        rank=rank,
        world_size=num_processes,
        timeout=timedelta(seconds=SECONDS),
    )
    torch.save(work(rank), folder / f"{rank}.result")
    dist.barrier()
    dist.destroy_process_group()
    return 0


def build(data, rank, num_processes, *words, update_freq=1, **changes):
    """Return a trainer, and the batches of this process for each update."""
    place = ["--distributed-world-size", num_processes, "--distributed-rank", rank]
    place += ["--update-freq", update_freq, "--distributed-no-spawn"]
    return finetuning_helpers.build_trainer(
        data, *place, *words, update_freq=update_freq, **changes
    )


def trained(trainer, updates):
    """Train; return the losses in nats and the gradients' norms of all updates."""
    seen = []
    reduce = trainer._reduce_and_log_stats

    def record(logs, sample_size, grad_norm=None):
        if grad_norm is not None:
            loss = sum(float(log["loss"]) for log in logs) / float(sample_size)
            seen.append((loss, float(grad_norm)))
        return reduce(logs, sample_size, grad_norm)

    trainer._reduce_and_log_stats = record
    for samples in updates:
        trainer.train_step(samples)
    return seen

"""Cure of ``torchrun fairseq-train``, which trains independent copies into one folder."""

import os
from argparse import Namespace

import torch

_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def join_torchrun(args: Namespace, words: list[str]) -> None:
    """Let a training that torchrun has launched join the other processes.

    fairseq reads the world size from the environment only if several GPUs are visible to each
    process, and divides by zero without any. Needless once ``infer_init_method`` looks at the
    environment first.

    Args:
        args: parsed options, which are amended; those of a command that trains nothing, or that
            say themselves how to meet, stay as they are.
        words: the command line. Backends named there stay; on a CPU the others become ones that
            work without device numbers.
    """
    if any(name not in os.environ for name in _VARIABLES):
        return
    if not hasattr(args, "distributed_init_method") or not hasattr(args, "arch"):
        return
    if args.distributed_init_method is not None:
        return
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    args.distributed_no_spawn = True
    args.distributed_world_size = world_size
    args.distributed_rank = int(os.environ["RANK"])
    args.device_id = int(os.environ["LOCAL_RANK"])
    if world_size > 1:
        args.distributed_init_method = "env://"
    if not torch.cuda.is_available() or getattr(args, "cpu", False):
        if "--distributed-backend" not in words:
            args.distributed_backend = "gloo"
        if "--ddp-backend" not in words:  # pytorch_ddp is given device ids, which a CPU lacks
            args.ddp_backend = "legacy_ddp"

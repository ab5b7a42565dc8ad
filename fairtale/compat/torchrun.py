"""Work around ``torchrun fairseq-train``, which trains independent copies into one folder."""

import os
from argparse import Namespace

import torch

_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def join_torchrun(args: Namespace, words: list[str]) -> None:
    """Let a process that torchrun has launched join the process group of the training.

    fairseq reads the world size from the environment only if each process sees several GPUs, and
    divides by zero if there is no GPU. Remove this work-around once ``infer_init_method`` reads the
    environment first.

    Args:
        args: parsed options, which are changed in place. They are left unchanged if the command
            does not train, or if ``--distributed-init-method`` is given.
        words: words of the command line. Backends given there are kept; on a CPU the others are
            replaced by backends that need no device number.
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
        if "--ddp-backend" not in words:  # fairseq passes device ids to pytorch_ddp; CPUs have none
            args.ddp_backend = "legacy_ddp"

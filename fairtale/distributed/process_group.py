"""The processes of a sharded training."""

from __future__ import annotations

import atexit

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def mesh_of_processes(on_gpu: bool) -> DeviceMesh:
    """Return the mesh of all processes of the training.

    fairseq makes a process group only for several processes; a single one gets its own here, which
    needs no address.

    Args:
        on_gpu: whether the processes train on GPUs.
    """
    if not dist.is_initialized():
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        atexit.register(dist.destroy_process_group)
    device = "cuda" if on_gpu else "cpu"
    return init_device_mesh(device, (dist.get_world_size(),), mesh_dim_names=("shards",))

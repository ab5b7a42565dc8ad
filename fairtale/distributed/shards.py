"""Cut whole tensors into the shards of the processes, and gather them again.

FSDP2 divides each parameter along its first dimension, as ``torch.chunk`` does: N processes have
ceil(size / N) rows each, and the last ones have fewer or none.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def local_part(parameter: Tensor) -> Tensor:
    """Return the rows that this process holds of a parameter, or all if it is not sharded.

    The result shares its memory with the parameter.
    """
    with torch.no_grad():
        if isinstance(parameter, DTensor):
            return parameter.to_local()
        return parameter.detach()


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """Return a copy of the rows of a whole tensor that this process holds.

    Args:
        whole: a tensor of the shape of ``like``.
        like: a parameter, sharded or not, or its shard's owner.
    """
    if not isinstance(like, DTensor):
        return whole.clone()
    mesh = like.device_mesh
    parts = torch.chunk(whole, mesh.size(), dim=0)
    rank = mesh.get_local_rank()
    return parts[rank].clone() if rank < len(parts) else whole[:0].clone()


def gather(part: Tensor, like: Tensor, keep: bool) -> Tensor | None:
    """Return the whole tensor on the CPU; all processes must call this together.

    Args:
        part: this process's rows.
        like: the parameter to which they belong, or whose state they are.
        keep: whether this process needs the result; the others get None.
    """
    part = part.detach()
    if isinstance(like, DTensor):
        mesh = like.device_mesh
        # the rows may be on the CPU (--cpu-offload), where NCCL does not reach
        part = part.to(mesh.device_type)
        rows = -(-like.size(0) // mesh.size())
        padded = part.new_zeros((rows, *like.shape[1:]))
        padded[: part.size(0)] = part
        parts = list(part.new_empty((mesh.size(), *padded.shape)).unbind())
        dist.all_gather(parts, padded, group=mesh.get_group())
        part = torch.cat(parts)[: like.size(0)]
    return part.to("cpu", copy=True) if keep else None


def num_bytes(tensors: list[Tensor]) -> int:
    """Return the bytes of memory that tensors take in this process."""
    return sum(t.numel() * t.element_size() for t in map(local_part, tensors))

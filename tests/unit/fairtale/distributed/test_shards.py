"""Shards are what torch cuts, and whole tensors come back from them."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from fairtale.distributed.shards import cut, gather, local_part, num_bytes
from tests.sharding_helpers import together

SHAPES = [(1,), (3,), (4, 2), (5, 3), (2, 3, 2)]


@pytest.mark.parametrize("count", [1, 4])
def test_cut_and_gather(count, tmp_path):
    """Also for fewer rows than processes, and for rows that do not divide evenly."""

    def work(rank):
        mesh, found = init_device_mesh("cpu", (count,)), []
        for number, shape in enumerate(SHAPES):
            whole = torch.randn(shape, generator=torch.Generator().manual_seed(number))
            parameter = distribute_tensor(whole, mesh, [Shard(0)])
            part = cut(whole, parameter)
            assert torch.equal(part, local_part(parameter))
            assert num_bytes([parameter]) == 4 * part.numel()
            again = gather(part, parameter, keep=rank == 0)
            assert torch.equal(again, whole) if rank == 0 else again is None
            found.append(part.numel())
        return found

    for sizes in zip(*together(count, tmp_path / "group", work)):
        assert len(sizes) == count and sum(sizes) in [1, 3, 8, 15, 12]


def test_a_parameter_that_is_not_sharded():
    whole = torch.ones(3)
    part = cut(whole, whole)
    assert torch.equal(part, whole) and part.data_ptr() != whole.data_ptr()
    assert torch.equal(gather(part, whole, keep=True), whole)
    assert local_part(whole).data_ptr() == whole.data_ptr()

"""The process group of a training is destroyed at its end."""

import subprocess
import sys

import pytest

# the plug-in is imported in the training, as in a process that fairseq has spawned
TRAINING = """
import torch.distributed as dist
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils
from torch._C._distributed_c10d import HashStore

def init(cfg):
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    return 0

def main(cfg):
    import user_dir
    from fairtale.compat.process_groups import at_end_of_group
    at_end_of_group(lambda: print("called with the group:", dist.is_initialized()))
    dist.barrier()  # only the barrier after the training ends the group
    assert dist.is_initialized()
    {main}

utils.distributed_init = init
utils.get_global_group = lambda: None
try:
    utils.distributed_main(0, main, FairseqConfig(), {{}})
finally:
    print("group at the end:", dist.is_initialized())
"""


@pytest.mark.parametrize(("main", "stays"), [("pass", False), ("raise OSError('lost')", True)])
def test_the_group_ends_after_a_training_that_went_well(main, stays):
    command = [sys.executable, "-c", TRAINING.format(main=main)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"group at the end: {stays}" in done.stdout, done.stderr
    assert ("OSError: lost" in done.stderr) == stays
    assert ("called with the group: True" in done.stdout) != stays

"""A training killed in the middle of writing a checkpoint leaves a loadable one."""

import pytest
import torch

SHORT = "--max-update 6 --dropout 0.1 --tokens-per-sample 64".split()
# a checkpoint after every second update, all in the first epoch
INTERVALS = [*SHORT, *"--batch-size 16 --save-interval-updates 2".split()]
# a checkpoint at the end of the epoch, after update 4, and at the end
EPOCHS = [*SHORT, *"--batch-size 40 --no-epoch-checkpoints --disable-validation".split()]

# writes half of the n-th checkpoint and dies, without any chance to clean up
DIE_WRITING = """
import io, os, signal
import torch

save, saved = torch.save, []

def half_save(obj, f, *args, **kwargs):
    saved.append(f)
    if len(saved) < {nth}:
        return save(obj, f, *args, **kwargs)
    whole = io.BytesIO()
    save(obj, whole)
    f.write(whole.getvalue()[: whole.tell() // 2])
    f.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half_save
"""

# the same in the middle of the n-th copy to checkpoint_last.pt
DIE_COPYING = """
import os, shutil, signal

copyfile, copied = shutil.copyfile, []

def half_copy(source, target, *args, **kwargs):
    if "checkpoint_last.pt" in os.path.basename(target):
        copied.append(target)
    if len(copied) < {nth}:
        return copyfile(source, target, *args, **kwargs)
    with open(source, "rb") as f:
        half = f.read(os.path.getsize(source) // 2)
    with open(target, "wb") as f:
        f.write(half)
    os.kill(os.getpid(), signal.SIGKILL)

shutil.copyfile = half_copy
"""

KILLED = -9


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def updates(path):
    return torch.load(path, weights_only=False)["optimizer_history"][-1]["num_updates"]


def weights(path):
    return torch.load(path, weights_only=False)["model"]


@pytest.mark.parametrize(
    "moment, options, left, before",
    [
        # the first name of a save is that of its interval; checkpoint_last.pt is a copy
        (DIE_WRITING, INTERVALS, "checkpoint_1_4.pt.tmp", 2),
        # with no other names checkpoint_last.pt is written itself
        (DIE_WRITING, EPOCHS, "checkpoint_last.pt.tmp", 4),
        (DIE_COPYING, INTERVALS, "checkpoint_last.pt.tmp", 2),
    ],
    ids=["writing", "writing-last", "copying-to-last"],
)
def test_killed_while_saving(moment, options, left, before, fairseq, stories, tmp_path):
    folder = tmp_path / "killed"
    last = folder / "checkpoint_last.pt"
    killed = fairseq.train(stories.bin, folder, *options, before=moment.format(nth=2), check=False)
    assert killed.status == KILLED, killed.err
    assert left in files(folder)
    assert updates(last) == before  # complete, from the previous save

    resumed = fairseq.train(stories.bin, folder, *options)
    assert f"removing {folder / left}" in resumed.out
    assert not [name for name in files(folder) if name.endswith(".tmp")]

    fairseq.train(stories.bin, tmp_path / "whole", *options)
    model, expected = weights(last), weights(tmp_path / "whole" / "checkpoint_last.pt")
    assert all(torch.equal(model[name], expected[name]) for name in expected)


def test_stock_fairseq_leaves_a_broken_checkpoint(fairseq, stories, tmp_path):
    """If this fails, fairseq copies safely and ``cure_checkpoint_copies`` is needless."""
    killed = fairseq.run(
        "train",
        stories.bin,
        *"--task language_modeling --arch transformer_lm --decoder-embed-dim 16".split(),
        *"--decoder-input-dim 16 --decoder-output-dim 16 --decoder-layers 1".split(),
        *"--decoder-ffn-embed-dim 16 --decoder-attention-heads 1 --optimizer sgd --lr 0.1".split(),
        *"--data-buffer-size 0 --num-workers 0 --cpu --tokens-per-sample 32".split(),
        *"--batch-size 16 --save-interval-updates 2 --max-update 6 --save-dir".split(),
        tmp_path,
        before=DIE_COPYING.format(nth=2),
        check=False,
        stock=True,
    )
    assert killed.status == KILLED, killed.err[-2000:]
    with pytest.raises((RuntimeError, OSError)):
        torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)

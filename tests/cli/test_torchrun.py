"""Two processes make the same updates as one process with twice the batch."""

import json
import socket

import pytest
import torch

# writes which stories each process has used in each update, and the gradient's norm
RECORD = """
import json, os
from fairseq.trainer import Trainer

step, path = Trainer.train_step, {path!r} + "." + os.environ.get("RANK", "0")

def train_step(self, samples, *args, **kwargs):
    output = step(self, samples, *args, **kwargs)
    used = [sample["id"].tolist() for sample in samples if sample]
    with open(path, "a") as f:
        f.write(json.dumps(used) + "\\n")
    return output

Trainer.train_step = train_step
"""

COMMON = "--max-update 6 --dropout 0 --tokens-per-sample 64 --no-epoch-checkpoints".split()


def weights(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=False)["model"]


def largest_difference(left, right):
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def used(path):
    """The stories of each update of a process, one list a batch."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def launched(rank, port):
    """Return the environment that torchrun gives a process."""
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
    return dict(zip(names, [rank, rank, "2", "2", "127.0.0.1", port]))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.parametrize("packed", [[], ["--pack"]], ids=["padded", "packed"])
def test_one_batch_in_two_processes(packed, fairseq, stories, tmp_path):
    """13 stories are one batch of 13, or two of 7 and 6."""
    options = [*COMMON, *packed, "--train-subset", "test", "--required-batch-size-multiple", 1]
    one, two, path = tmp_path / "one", tmp_path / "two", str(tmp_path / "used")
    alone = fairseq.train(stories.bin, one, *options, "--batch-size", 13)
    words = fairseq.tiny(stories.bin, two, *options, "--batch-size", 7)
    port = free_port()
    pair = fairseq.together(
        *(
            fairseq.prepare("train", *words, env=launched(r, port), before=RECORD.format(path=path))
            for r in "01"
        )
    )
    for result in pair:
        assert result.status == 0, result.err[-3000:]
    assert "training on 2 devices" in pair[0].out
    for first, second in zip(used(tmp_path / "used.0"), used(tmp_path / "used.1"), strict=True):
        assert sorted(first[0] + second[0]) == list(range(13)) and first and second
    assert largest_difference(one, two) < 1e-5
    assert norms(alone) == pytest.approx(norms(pair[0]), abs=2e-3)


def test_two_processes_go_on_from_a_checkpoint(fairseq, stories, tmp_path):
    """Only the first reads it; fairseq's way of sending it to the other fails on torch >= 2.6."""
    options = [*COMMON, "--batch-size", 16]

    def train(folder, *more):
        words, port = fairseq.tiny(stories.bin, folder, *options, *more), free_port()
        pair = [fairseq.prepare("train", *words, env=launched(r, port)) for r in "01"]
        first, second = fairseq.together(*pair)
        assert first.status == second.status == 0, first.err[-3000:] + second.err[-3000:]
        return first

    train(tmp_path / "straight")
    train(tmp_path / "resumed", "--max-update", 2)
    assert "@ 2 updates" in train(tmp_path / "resumed").out
    assert largest_difference(tmp_path / "straight", tmp_path / "resumed") == 0


def norms(result):
    """The gradient's norm in each epoch."""
    found = [float(record["train_gnorm"]) for record in result.logged("train")]
    assert len(found) == 6
    return found


def test_torchrun_trains_together(fairseq, stories, tmp_path):
    """A plain call of torchrun; the last of 7 batches is only for the first process."""
    options = [*COMMON, "--batch-size", 16, "--validate-interval-updates", 2]
    one, two, half = tmp_path / "one", tmp_path / "two", tmp_path / "half"
    alone = fairseq.train(stories.bin, one, *options, "--update-freq", 2)
    words = fairseq.tiny(stories.bin, two, *options, "--sample-prompts", "Once upon a time")
    both = fairseq.script(
        *("torchrun", "--standalone", "--nproc-per-node", 2, "fairseq-train"), *words
    )
    assert "training on 2 devices" in both.out
    assert largest_difference(one, two) < 1e-5
    losses = [
        [float(record["valid_loss"]) for record in result.logged("valid")]
        for result in (alone, both)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3) and len(losses[0]) >= 3
    assert both.out.count("| sample 0 @ 2 updates: ") == 1  # by one of them

    # check of the comparison: without the second process's batches, the result differs
    fairseq.train(stories.bin, half, *options)
    assert largest_difference(one, half) > 1e-3


def test_mistakes_end_all_processes(fairseq, tmp_path):
    words = fairseq.tiny(tmp_path / "nowhere", tmp_path / "ck", "--batch-size", 8)
    port = free_port()
    pair = [fairseq.prepare("train", *words, env=launched(rank, port)) for rank in "01"]
    for rank, result in enumerate(fairseq.together(*pair)):
        assert result.status not in (0, None)
        assert result.error.startswith(f"[rank{rank}]: error: "), result.err


def test_stock_fairseq_trains_alone(fairseq, stories, tmp_path):
    """If this fails, fairseq reads torchrun's environment and ``join_torchrun`` is needless."""
    words = "--task language_modeling --arch transformer_lm --decoder-embed-dim 16".split()
    words += "--decoder-input-dim 16 --decoder-output-dim 16 --decoder-layers 1".split()
    words += "--decoder-ffn-embed-dim 16 --decoder-attention-heads 1 --optimizer sgd".split()
    words += "--lr 0.1 --data-buffer-size 0 --num-workers 0 --cpu --tokens-per-sample 32".split()
    words += ["--batch-size", 16, "--max-update", 2, "--save-dir", tmp_path]
    second = fairseq.run(
        "train", stories.bin, *words, env=launched("1", free_port()), stock=True
    )  # does not wait for the first one
    assert "training on 1 devices" in second.out
    assert (tmp_path / "checkpoint_last.pt").exists()  # which only the first one may write

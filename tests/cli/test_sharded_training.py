"""Real trainings with ``--ddp-backend fsdp2`` in several processes, and their checkpoints."""

import json
import socket

import pytest
import torch

# writes which stories each process has used in each update, and the loss of the update
RECORD = """
import json, os
from fairseq.trainer import Trainer

step, path = Trainer.train_step, {path!r} + "." + os.environ.get("RANK", "0")
reduce, losses = Trainer._reduce_and_log_stats, []

def _reduce_and_log_stats(self, logs, size, grad_norm=None):
    losses.append(sum(float(log["loss"]) for log in logs) / float(size))
    return reduce(self, logs, size, grad_norm)

def train_step(self, samples, *args, **kwargs):
    losses.clear()
    output = step(self, samples, *args, **kwargs)
    used = [sample["id"].tolist() for sample in samples if sample]
    with open(path, "a") as f:
        f.write(json.dumps([losses, used]) + "\\n")
    return output

Trainer.train_step, Trainer._reduce_and_log_stats = train_step, _reduce_and_log_stats
"""

OPTIONS = (
    "--dropout 0 --tokens-per-sample 64 --batch-size 8 --required-batch-size-multiple 1 "
    "--no-epoch-checkpoints --disable-validation --criterion label_smoothed_kl --clip-norm 1.0"
).split()
FSDP = ["--ddp-backend", "fsdp2"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def launched(rank, count, port):
    """Return the environment that torchrun gives a process."""
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
    values = [rank, rank, count, count, "127.0.0.1", port]
    return dict(zip(names, map(str, values)))


def train(fairseq, data, folder, count, *words, check=True):
    """Train in ``count`` processes; a batch of each, and 4 batches in an update."""
    words = fairseq.tiny(data, folder, *OPTIONS, "--update-freq", 4 // count, *words)
    port, before = free_port(), RECORD.format(path=str(folder / f"used-{count}"))
    folder.mkdir(exist_ok=True)
    results = fairseq.together(
        *(
            fairseq.prepare("train", *words, env=launched(r, count, port), before=before)
            for r in range(count)
        )
    )
    for result in results:
        assert not check or result.status == 0, result.err[-3000:]
    return results


def updates(folder, count):
    """Losses of the updates, and the samples of all processes, in the order of the batches."""
    workers = []
    for rank in range(count):
        path = folder / f"used-{count}.{rank}"
        workers.append([json.loads(line) for line in path.read_text().splitlines()])
        path.unlink()
    found = []
    for rows in zip(*workers, strict=True):
        (loss,) = {tuple(losses) for losses, _ in rows}
        batches = [used for _, used in rows]
        order = [b[i] for i in range(4 // count) for b in batches if i < len(b)]
        found.append((loss[0], order))
    return found


def state(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=False)


def assert_near(left, right, where="state", tolerance=1e-5):
    """Compare nested containers: the same keys, and nearly the same tensors."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape, where
        assert torch.allclose(left.float(), right.float(), rtol=0, atol=tolerance), where
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_near(left[key], right[key], f"{where}.{key}", tolerance)
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right)):
            assert_near(a, b, f"{where}[{i}]", tolerance)
    else:
        assert left == right, where


@pytest.mark.slow
def test_four_go_on_as_two_and_as_one_and_back(fairseq, stories, tmp_path):
    """13 batches are 4 updates, the last of them with one batch."""
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    train(fairseq, stories.bin, straight, 1, "--max-update", 10)  # fairseq's own, without FSDP
    expected = updates(straight, 1)
    seen = []
    for count, last, stage in ((4, 3, 3), (2, 6, 2), (1, 9, 1), (4, 10, 1)):
        words = ["--max-update", last, *FSDP, "--shard-stage", stage]
        out = train(fairseq, stories.bin, moved, count, *words)[0].out
        assert f"sharded training: stage {stage}, fp32, {count} processes, 2 layers" in out
        seen += updates(moved, count)
    assert [samples for _, samples in seen] == [samples for _, samples in expected]
    assert [loss for loss, _ in seen] == pytest.approx([loss for loss, _ in expected], abs=1e-5)
    one, many = state(straight), state(moved)
    for part in ("model", "last_optimizer_state", "task_state"):
        assert_near(one[part], many[part], part)
    # there is an entry for each start
    assert_near(one["optimizer_history"][-1], many["optimizer_history"][-1])
    assert list(one) == list(many)
    iterator = "extra_state", "train_iterator"
    assert one[iterator[0]][iterator[1]]["batches"] == many[iterator[0]][iterator[1]]["batches"]
    # fairseq's own commands read the file as it is
    fairseq.run(
        *("generate", stories.bin, "--path", moved / "checkpoint_last.pt", "--gen-subset", "test"),
        *("--batch-size", 16, "--cpu", "--max-len-b", 5, "--prefix-size", 3),
    )


# the second process kills itself in the middle of an epoch, or fails
DIE = """
import os, signal
from fairseq.trainer import Trainer

step = Trainer.train_step

def train_step(self, *args, **kwargs):
    if self.get_num_updates() == 3 and os.environ["RANK"] == "1":
        {how}
    return step(self, *args, **kwargs)

Trainer.train_step = train_step
"""


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "has died without a message: killed, or out of"),
        pytest.param(
            *("raise LookupError('no such thing')", "has failed: LookupError: no such thing"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["killed", "failed"],
)
def test_the_others_end_with_the_reason_and_the_command_goes_on(
    how, reason, fairseq, stories, tmp_path
):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    words = ["--max-update", 5, *FSDP, "--save-interval-updates", 2]
    train(fairseq, stories.bin, straight, 2, *words)
    expected = updates(straight, 2)
    command = fairseq.tiny(stories.bin, broken, *OPTIONS, "--update-freq", 2, *words)
    port = free_port()
    first, second = fairseq.together(
        *(
            fairseq.prepare("train", *command, env=launched(r, 2, port), before=DIE.format(how=how))
            for r in range(2)
        )
    )
    assert first.status == 1 and second.status != 0
    assert first.error.startswith("error: worker 1 (process "), first.err[-3000:]
    assert reason in first.error and "goes on from the last checkpoint" in first.error
    train(fairseq, stories.bin, broken, 2, *words)  # the same command
    assert updates(broken, 2) == expected[2:]
    assert_near(state(straight)["model"], state(broken)["model"], tolerance=0)


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_one_process_writes_samples_in_validation(stage, fairseq, stories, tmp_path):
    """It generates by itself, with the whole model; validation losses are those of one process."""
    options = ["--max-update", 4, "--validate-interval-updates", 2, "--shard-stage", stage, *FSDP]
    options = [word for word in (*OPTIONS, *options) if word != "--disable-validation"]
    options += ["--sample-prompts", "Once upon a time", "--sample-length", 8]
    found = []
    for count in (1, 2):
        folder, port = tmp_path / f"{count}", free_port()
        words = fairseq.tiny(stories.bin, folder, *options, "--update-freq", 2 // count)
        first, *_ = fairseq.together(
            *(fairseq.prepare("train", *words, env=launched(r, count, port)) for r in range(count))
        )
        assert first.status == 0, first.err[-3000:]
        texts = [
            line.split("| sample 0 @ ")[1] for line in first.out.splitlines() if "e 0 @" in line
        ]
        assert len(texts) == 2
        found.append((texts, [float(row["valid_loss"]) for row in first.logged("valid")]))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-3) and len(found[0][1]) == 2


@pytest.mark.slow
def test_torchrun_trains_a_sharded_model(fairseq, stories, tmp_path):
    """The command of the documentation; ``fairtale`` packages nothing around it."""
    words = fairseq.tiny(stories.bin, tmp_path, *OPTIONS, *FSDP, "--max-update", 2, "--bf16")
    launcher = ("torchrun", "--standalone", "--nproc-per-node", 2, "fairseq-train")
    both = fairseq.script(*launcher, *words, "--shard-stage", 3, "--checkpoint-activations")
    assert both.out.count("sharded training: stage 3, bf16, 2 processes, 2 layers") == 1
    weights = state(tmp_path)["model"].values()
    assert all(weight.dtype == torch.float32 for weight in weights if weight.is_floating_point())


def test_what_is_refused_before_training(fairseq, stories, tmp_path):
    words = [*OPTIONS, *FSDP, "--optimizer", "adafactor", "--lr", 0.01]
    result = fairseq.train(stories.bin, tmp_path / "a", *words, check=False)
    assert result.status == 1 and "it needs whole matrices" in result.error
    result = fairseq.train(stories.bin, tmp_path / "b", *OPTIONS, *FSDP, "--amp", check=False)
    assert result.status == 1 and "not supported: --amp" in result.error
    assert not (tmp_path / "b").exists()

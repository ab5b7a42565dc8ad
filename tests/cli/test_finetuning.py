"""Freezing and unfreezing in real trainings: checkpoints, resumed, in two processes."""

import socket

import pytest
import torch

from tests.checkpoint_helpers import assert_same

MODEL = (
    "--dropout 0.1 --weight-decay 0.1 --clip-norm 1 --tokens-per-sample 64 --batch-size 16 "
    "--criterion label_smoothed_kl --no-epoch-checkpoints --required-batch-size-multiple 1"
).split()
# the two layers and the embeddings, from top to bottom
SCHEDULE = "--lr-decay-per-group 0.5 --unfreeze-schedule 0:1,2:2,5:all".split()
RATES = "--lr-scheduler slanted_triangular --total-num-update 10 --warmup-ratio 0.2".split()


def read(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=False)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def launched(rank, port):
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
    return dict(zip(names, [rank, rank, "2", "2", "127.0.0.1", port]))


@pytest.mark.parametrize("precision", ["", "--bf16"], ids=["fp32", "bf16"])
def test_last_layer_of_a_finished_model(precision, checkpoint, fairseq, stories, tmp_path):
    """50 updates change the last layer and the final norm, and no bit of anything else."""
    words = [*MODEL, "--finetune-from-model", checkpoint, "--freeze-all-but-last", 1]
    words += ["--tokens-per-sample", 96, "--max-update", 50, *precision.split()]
    result = fairseq.train(stories.bin, tmp_path, *words)
    before = torch.load(checkpoint, weights_only=False)["model"]
    after = read(tmp_path)
    for name, weight in after["model"].items():
        trained = ".layers.1." in name or ".layer_norm." in name and ".layers." not in name
        assert torch.equal(before[name], weight) != trained, name
    state = after["last_optimizer_state"]["state"]
    sizes = sorted(tuple(one["exp_avg"].shape) for one in state.values())
    expected = [w.shape for n, w in after["model"].items() if ".layers.1." in n]
    assert sizes == sorted([*map(tuple, expected), (32,), (32,)])
    assert "| layer_1 | 8,608 | 0.005 | the start |" in result.out
    assert "| frozen |" in result.out


def test_resumed_training_equals_continuous(fairseq, stories, tmp_path):
    """Stopped at and after points of the schedule, to the last bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [*MODEL, *SCHEDULE, *RATES]
    fairseq.train(stories.bin, whole, *words, "--max-update", 9)
    for stop in (2, 6, 9):
        # a training may not end before its schedule does, so this one is stopped from outside
        stopping = f"""
from fairseq_cli import train
original = train.validate_and_save
def validate_and_save(cfg, trainer, *args, **kwargs):
    cfg.optimization.max_update = {stop}
    return original(cfg, trainer, *args, **kwargs)
train.validate_and_save = validate_and_save
"""
        fairseq.train(stories.bin, parts, *words, "--max-update", 9, before=stopping)
        state = read(parts)
        assert state["optimizer_history"][-1]["num_updates"] == stop
    left, right = read(whole), read(parts)
    for part in ("model", "last_optimizer_state", "task_state"):
        assert_same(left[part], right[part], part)
    assert left["extra_state"]["train_iterator"] == right["extra_state"]["train_iterator"]

    # check of the comparison
    other = tmp_path / "other"
    words += ["--max-update", 9, "--unfreeze-schedule", "0:1,3:2,5:all"]
    fairseq.train(stories.bin, other, *words)
    with pytest.raises(AssertionError):
        assert_same(left["model"], read(other)["model"])


def test_resume_with_other_groups_is_refused(fairseq, stories, tmp_path):
    words = [*MODEL, "--lr-decay-per-group", 0.5]
    fairseq.train(stories.bin, tmp_path, *words, "--max-update", 2)
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    for more, said in (
        (["--finetune-groups", 1], "no --finetune-groups, now --finetune-groups 1"),
        (["--lr-decay-per-group", 0.25], "0.5, now --lr-decay-per-group 0.25"),
    ):
        words = [*MODEL, "--lr-decay-per-group", 0.5, "--max-update", 4, *more]
        result = fairseq.train(stories.bin, tmp_path, *words, check=False)
        assert result.status == 1 and said in result.error
        assert (tmp_path / "checkpoint_last.pt").read_bytes() == before
    fairseq.train(stories.bin, tmp_path, *words, "--reset-optimizer")


@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
def test_two_processes_unfreeze_together(backend, fairseq, stories, tmp_path):
    """They equal one process with twice the batch."""
    data = ["--train-subset", "test", "--max-update", 9, "--dropout", 0]
    words = [*MODEL, *SCHEDULE, *RATES, *data]
    one, two = tmp_path / "one", tmp_path / "two"
    fairseq.train(stories.bin, one, *words, "--batch-size", 13)
    words = fairseq.tiny(stories.bin, two, *words, "--batch-size", 7)
    port = free_port()
    # fairseq names a GPU for torch's DDP, also on a CPU
    cure = """
import torch
from fairseq.models import distributed_fairseq_model as module
ddp = module.DistributedDataParallel
def on_cpu(**options):
    built = ddp(**{**options, "device_ids": None, "output_device": None})
    print("ddp of", sum(p.requires_grad for p in built.parameters()), "parameters", flush=True)
    return built
module.DistributedDataParallel = on_cpu
"""
    both = fairseq.together(
        *(
            fairseq.prepare(
                "train", *words, "--ddp-backend", backend, env=launched(r, port), before=cure
            )
            for r in "01"
        )
    )
    for result in both:
        assert result.status == 0, result.err[-3000:]
    assert "training on 2 devices" in both[0].out
    left, right = read(one)["model"], read(two)["model"]
    assert max((left[name] - right[name]).abs().max().item() for name in left) < 1e-5
    if backend == "pytorch_ddp":
        assert both[0].out.count("ddp of ") == 3


def test_early_stopping_on_perplexity_goes_on_counting(fairseq, stories, tmp_path):
    """Validation after every second update; no result after the second one is a gain."""
    words = [*MODEL, "--validate-interval-updates", 2, "--save-interval-updates", 2]
    words += ["--patience", 4, "--best-checkpoint-metric", "ppl", "--lr", 0.000001]
    # perplexities that get worse from the second one on
    worse = """
from fairseq_cli import train
original = train.get_valid_stats
def get_valid_stats(cfg, trainer, *args, **kwargs):
    stats = original(cfg, trainer, *args, **kwargs)
    assert "ppl" in stats
    return {**stats, "ppl": 100 + abs(trainer.get_num_updates() - 4)}
train.get_valid_stats = get_valid_stats
"""

    def train(folder, *more):
        result = fairseq.train(stories.bin, folder, *words, *more, before=worse)
        return result, read(folder)["optimizer_history"][-1]["num_updates"]

    result, stopped = train(tmp_path / "straight", "--max-update", 40)
    assert "valid performance hasn't improved for last 4 runs" in result.out
    assert stopped == 10  # after the validations at 6, 7 (the end of an epoch), 8 and 10
    assert train(tmp_path / "parts", "--max-update", 8)[1] == 8
    state = read(tmp_path / "parts")["extra_state"]["early_stopping"]
    assert state == {"best": 100, "num_runs": 3}
    assert train(tmp_path / "parts", "--max-update", 40)[1] == 10

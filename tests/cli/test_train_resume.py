"""A training that was stopped and goes on equals one that never stopped, to the last bit."""

import json

import pytest
import torch

from tests.checkpoint_helpers import assert_same

# writes what each update has used and found, without any rounding
RECORD = """
import json
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer

path, update, batch = {path!r}, Trainer.train_step, FairseqTask.train_step
losses = []

def train_batch(self, sample, *args, **kwargs):
    loss, size, output = batch(self, sample, *args, **kwargs)
    losses.append([float(loss.detach()).hex(), sample["id"].tolist()])
    return loss, size, output

def train_step(self, *args, **kwargs):
    losses.clear()
    lr = self.get_lr()
    output = update(self, *args, **kwargs)
    with open(path, "a") as f:
        f.write(json.dumps([self.get_num_updates(), lr, losses]) + "\\n")
    return output

FairseqTask.train_step, Trainer.train_step = train_batch, train_step
"""

# no validation after the first one counts as a gain, so each second one reduces the rate
SCHEDULE = (
    "--lr-scheduler reduce_lr_on_validation --lr-patience 2 --lr-shrink 0.5 --lr-threshold 0.99 "
    "--warmup-updates 3 --validate-interval-updates 2 --save-interval-updates 2 "
    "--dropout 0.2 --clip-norm 1.0 --tokens-per-sample 64"
).split()


def what_counts(path):
    """Everything in a checkpoint that training goes on from."""
    state = torch.load(path, weights_only=False)
    extra = state["extra_state"]
    return {
        "model": state["model"],
        "optimizer": state["last_optimizer_state"],
        "schedule": state["optimizer_history"][-1],
        "task": state["task_state"],
        "iterator": extra["train_iterator"],
        "val_loss": extra["val_loss"],
        "best": extra["best"],
    }


@pytest.fixture(scope="module")
def train(fairseq, stories):
    """Train in a folder; returns the log and a record of every update."""

    def train(folder, max_update, *options):
        folder.mkdir(exist_ok=True)
        path = folder / f"until-{max_update}.json"
        words = [*SCHEDULE, "--max-update", max_update, *options]
        result = fairseq.train(stories.bin, folder, *words, before=RECORD.format(path=str(path)))
        return result, [json.loads(line) for line in path.read_text().splitlines()]

    return train


# options, the update after which the first training stops, whether an epoch ends there, and
# how many validations without gain the schedule has waited for by then; an epoch has 7 batches
# of 16 stories, or about 10 of 280 tokens
CASES = {
    "mid-epoch": (["--batch-size", "16", "--sample-prompts", "Once upon a time|Tom"], 4, False, 1),
    "epoch-end": (["--batch-size", "16"], 7, True, 1),
    "just-reduced": (["--batch-size", "16", "--update-freq", "2"], 6, False, 0),
    "bf16": (["--batch-size", "16", "--bf16"], 4, False, 1),
    "packed": (["--max-tokens", "280", "--pack", "--update-freq", "2"], 4, False, 1),
    "buffered": (
        ["--max-tokens", "280", "--pack", "--num-workers", "1", "--data-buffer-size", "10"],
        4,
        False,
        1,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_training_equals_continuous(case, train, tmp_path):
    options, stop, epoch_end, waited = CASES[case]
    last = "checkpoint_last.pt"
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    _, expected = train(whole, stop + 6, *options)
    log, first = train(halves, stop, *options)
    state = what_counts(halves / last)
    _, second = train(halves, stop + 6, *options)

    # the stop was where this case wants it
    assert (state["iterator"]["iterations_in_epoch"] == 0) == epoch_end
    assert state["schedule"]["lr_scheduler_state"]["waited"] == waited
    assert ("| sample 0 @ " in log.out) == ("--sample-prompts" in options)
    assert len({lr for _, lr, _ in expected[3:]}) > 1, "the schedule has never acted"

    assert [number for number, *_ in expected] == list(range(1, stop + 7))
    assert first + second == expected  # learning rates, losses, samples
    assert_same(what_counts(halves / last), what_counts(whole / last))


def test_record_would_show_a_difference(train, tmp_path):
    """Check of the comparison: without the optimizer state, a resumed training differs."""
    options = ["--batch-size", "16"]
    _, expected = train(tmp_path / "whole", 6, *options)
    _, first = train(tmp_path / "halves", 4, *options)
    _, second = train(tmp_path / "halves", 6, "--reset-optimizer", *options)
    assert first + second != expected

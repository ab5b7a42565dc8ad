"""A training in 16 bits goes on exactly, and frozen weights stay as they were in fp32."""

import pytest
import torch
from fairseq.optim import FP16Optimizer
from fairseq.trainer import Trainer
from torch import nn

from fairtale.compat.precision import _copies
from tests.checkpoint_helpers import assert_same
from tests.compat_helpers import pristine
from tests.finetuning_helpers import NUM_GROUPS, build_trainer, group_of, update, write_data

# small rates, so that bf16 rounds many changes of the weights away
STEPS = ["--lr", "1e-4", "--clip-norm", "0.5"]
FP16 = ["--fp16", "--fp16-no-flatten-grads", "--fp16-scale-window", "3"]
KINDS = {
    "bf16": ["--bf16"],
    "some layers frozen": ["--bf16", "--freeze-all-but-last", "2"],
    "unfrozen later": ["--bf16", "--unfreeze-schedule", "0:1,3:2,6:all"],
    "memory-efficient bf16": ["--memory-efficient-bf16"],
    "fp16": [*FP16, "--fp16-init-scale", "4"],
    "memory-efficient fp16": ["--memory-efficient-fp16", *FP16[1:], "--fp16-init-scale", "4"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def save(trainer, path):
    iterator = {"epoch": 1, "iterations_in_epoch": 1, "version": 2}
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": iterator})
    return torch.load(path, weights_only=False)


def what_counts(trainer, path):
    state = save(trainer, path)
    history = state["optimizer_history"][-1]
    return {**{key: state[key] for key in ("model", "last_optimizer_state")}, "history": history}


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_exactly(kind, data, tmp_path):
    words = [*STEPS, *KINDS[kind]]
    whole, batches = build_trainer(data, *words)
    update(whole, batches, 4)
    save(whole, tmp_path / "half.pt")
    update(whole, batches, 8)

    again, _ = build_trainer(data, *words, "--seed", 2)
    again.load_checkpoint(str(tmp_path / "half.pt"))
    again.cfg.common.seed = whole.cfg.common.seed
    update(again, batches, 8)
    expected, found = (
        what_counts(trainer, tmp_path / f"{number}.pt")
        for number, trainer in enumerate((whole, again))
    )
    assert_same(found, expected)


def test_saves_the_weights_that_the_optimizer_changes(data, tmp_path):
    trainer, batches = build_trainer(data, *STEPS, "--bf16")
    before = save(trainer, tmp_path / "before.pt")["model"]
    update(trainer, batches, 4)
    state = save(trainer, tmp_path / "after.pt")
    model = trainer.get_model()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    beyond = 0
    for name, rounded in model.state_dict().items():
        exact = state["model"][name]
        assert exact.dtype == torch.float32 and torch.equal(exact.bfloat16(), rounded), name
        beyond += (exact != rounded.float()).sum().item()
    changed = sum((before[name] != value).sum().item() for name, value in state["model"].items())
    assert beyond > changed / 2 > 1000
    # as before, so that the file has the same size
    names = {"state", "param_groups"}
    assert state["last_optimizer_state"].keys() == names


@pytest.mark.parametrize("precision", ["--bf16", "--memory-efficient-bf16"])
def test_frozen_weights_are_those_of_the_pretrained_model(precision, data, tmp_path):
    """Bit for bit, also after the training has been resumed."""
    pretrained, _ = build_trainer(data)
    expected = save(pretrained, tmp_path / "pretrained.pt")["model"]
    rounded = sum(not torch.equal(v, v.bfloat16().float()) for v in expected.values())
    assert rounded > 10  # the comparison below would notice

    words = [*STEPS, "--freeze-all-but-last", 2, precision, "--seed", 2]
    trainer, batches = build_trainer(data, *words)
    trainer.load_checkpoint(str(tmp_path / "pretrained.pt"), reset_optimizer=True)
    for number in range(2):
        update(trainer, batches, 2)
        state = save(trainer, tmp_path / f"{number}.pt")
        frozen = {name for name in expected if group_of(name) < NUM_GROUPS - 2}
        same = {n for n, value in state["model"].items() if torch.equal(value, expected[n])}
        assert frozen <= same and "transformer.layers.3.fc1.weight" not in same
        trainer, batches = build_trainer(data, *words)
        trainer.load_checkpoint(str(tmp_path / f"{number}.pt"))


def test_changed_weights_win(data, tmp_path):
    """A frozen weight that something else has changed is saved as it is."""
    trainer, _ = build_trainer(data, "--bf16", "--freeze-all-but-last", 2)
    save(trainer, tmp_path / "a.pt")
    weight = trainer.get_model().transformer.layers[0].fc1.weight
    weight.data.fill_(0.5)
    state = save(trainer, tmp_path / "b.pt")["model"]
    assert (state["transformer.layers.0.fc1.weight"] == 0.5).all()


def test_flat_copies():
    """With ``--fp16`` on a GPU, there is one copy of all parameters of a device."""
    parameters = [nn.Parameter(torch.ones(size).half()) for size in ((2, 3), (4,), (1, 2))]
    optimizer = FP16Optimizer.__new__(FP16Optimizer)
    optimizer.fp16_params = parameters
    optimizer.fp32_params = {None: nn.Parameter(torch.arange(12.0))}
    found = [copy.flatten().tolist() for _, copy in _copies(optimizer)]
    assert found == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 11]]


def test_without_16_bits_nothing_is_kept(data, tmp_path):
    trainer, batches = build_trainer(data)
    update(trainer, batches, 1)
    save(trainer, tmp_path / "a.pt")
    assert not trainer._exact.values and not trainer._exact.rounds


def test_fairseq_alone_loses_precision(data, tmp_path, monkeypatch):
    """Remove the work-around when this test fails."""
    stock = pristine("fairseq.trainer").Trainer
    assert stock.state_dict.__qualname__ == Trainer.state_dict.__qualname__
    trainer, batches = build_trainer(data, *STEPS, "--bf16")
    trainer.consolidate_optimizer()
    trainer.__class__ = type("Stock", (Trainer,), {"state_dict": stock.state_dict})
    update(trainer, batches, 4)
    weight = trainer.get_model().transformer.layers[0].fc1.weight
    found = trainer.state_dict()["model"]["transformer.layers.0.fc1.weight"]
    assert found.dtype == weight.dtype and found.data_ptr() == weight.data_ptr()

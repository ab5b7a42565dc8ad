"""fp16: an overflow skips the update, lowers the scale, and is logged with its layer."""

import logging

import pytest
import torch
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

from fairtale.distributed.overflow import log_overflows
from tests.finetuning_helpers import write_data
from tests.sharding_helpers import build, together, trained

FSDP = "--ddp-backend fsdp2 --shard-stage 2 --fp16 --clip-norm 0.5"


class Messages(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        if record.name.startswith("fairtale.distributed"):
            self.texts.append(record.getMessage())


def run(folder, data, words, change=lambda model: None):
    """Train three updates in two processes; return what each logs, and what it has then."""

    def work(rank):
        messages = Messages()
        logging.getLogger().addHandler(messages)
        trainer, updates = build(data, rank, 2, *FSDP.split(), *words.split(), update_freq=2)
        change(trainer.model)
        before = [p.to_local().clone() for p in trainer._sharding.parameters]
        seen = trained(trainer, updates * 3)
        same = all(map(torch.equal, before, (p.to_local() for p in trainer._sharding.parameters)))
        texts = [text for text in messages.texts if "overflow" in text]
        return texts, seen, trainer.get_num_updates(), trainer.optimizer.scaler.loss_scale, same

    return together(2, folder, work)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_a_scale_that_fits(data, tmp_path):
    for texts, seen, updates, scale, same in run(tmp_path / "group", data, "--fp16-init-scale 8"):
        assert (texts, updates, scale, same) == ([], 3, 8, False)
        # those of fp32 are 3.1871, 3.1113, 3.0478
        assert [loss for loss, _ in seen] == pytest.approx([3.1871, 3.1113, 3.0478], abs=2e-3)


def test_a_scale_that_is_too_large(data, tmp_path):
    results = run(tmp_path / "group", data, "--fp16-init-scale 1048576")
    for _, _, updates, scale, same in results:
        assert (updates, scale, same) == (0, 131072, True)
    assert results[1][0] == []  # the first process logs
    assert len(results[0][0]) == 3
    assert results[0][0][0] == (
        "fp16 overflow, this update is skipped: all 52 gradients, from the output projection or "
        "the loss down; loss scale 1.04858e+06 -> 524288"
    )


def test_the_layer_is_named(data, tmp_path):
    """Of a forward pass by its module, of a backward pass by the topmost layer."""

    def forward(model):
        layer = model.transformer.layers[2]
        original = layer.fc1.forward
        layer.fc1.forward = lambda x: original(x) * 1e6

    texts = run(tmp_path / "forward", data, "--fp16-init-scale 8", forward)[0][0]
    assert texts[1] == "the forward pass overflowed in transformer.layers.2.fc1"

    def backward(model):
        layer = model.transformer.layers[1]
        layer.fc1.register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 1e9,))

    texts = run(tmp_path / "backward", data, "--fp16-init-scale 8", backward)[0][0]
    assert "from transformer.layers.1 down (transformer.layers.1." in texts[0]
    assert len(texts) == 3  # the forward pass is not blamed


def test_a_training_that_is_not_sharded(caplog):
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    outer = torch.nn.Module()
    outer.decoder = model
    for parameter in outer.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.layers[0].bias.grad[1] = model.layers[1].weight.grad[0, 0] = torch.inf
    scaler = DynamicLossScaler(init_scale=4.0)
    log_overflows(scaler, outer, is_first=True)
    scaler.check_overflow(1.0)
    assert caplog.messages == []
    with pytest.raises(OverflowError):
        scaler.check_overflow(torch.inf)
    assert scaler.loss_scale == 2.0
    assert caplog.messages == [
        "fp16 overflow: gradients of 2 parameters, from decoder.layers.1 down "
        "(decoder.layers.1.weight)"
    ]

"""What several verbs share."""

import pytest
import torch

from fairtale.cli import support
from fairtale.errors import UserError


def test_a_device_is_the_gpu_if_there_is_one(monkeypatch):
    assert support.find_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert support.find_device(None) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "meta", "cuda:x"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=f"^--device {name}: not usable here .*; try cpu$"):
        support.find_device(name)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    def empty(*args, **kwargs):
        raise AssertionError("Torch not compiled with CUDA enabled\nand more")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(UserError, match="--device cuda: not usable here .Torch not compiled .*; t"):
        support.find_device("cuda")


def test_samples_go_to_the_device_that_was_named(monkeypatch):
    sample = {"id": torch.arange(2), "net_input": {"src_tokens": torch.ones(2, 3)}, "n": 2}
    assert support.to_device(sample, torch.device("cpu")) is sample
    seen = []
    monkeypatch.setattr("fairseq.utils.move_to_cuda", lambda *args: seen.append(args))
    support.to_device(sample, torch.device("cuda:1"))
    assert seen == [(sample, torch.device("cuda:1"))]


@pytest.mark.gpu
def test_a_sample_on_a_gpu():
    device = support.find_device("cuda")
    assert support.to_device({"id": torch.arange(2)}, device)["id"].device == device

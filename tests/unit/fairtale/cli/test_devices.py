"""The devices that verbs compute on."""

import pytest
import torch

from fairtale.cli import devices
from fairtale.errors import UserError


def test_a_device_is_the_gpu_if_there_is_one(monkeypatch):
    assert devices.find_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.find_device(None) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "meta", "cuda:x"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=f"^--device {name}: not usable here .*; try cpu$"):
        devices.find_device(name)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    def empty(*args, **kwargs):
        raise AssertionError("Torch not compiled with CUDA enabled\nand more")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(UserError, match="--device cuda: not usable here .Torch not compiled .*; t"):
        devices.find_device("cuda")


def test_samples_go_to_the_device_that_was_named(monkeypatch):
    sample = {"id": torch.arange(2), "net_input": {"src_tokens": torch.ones(2, 3)}, "n": 2}
    assert devices.to_device(sample, torch.device("cpu")) is sample
    seen = []
    monkeypatch.setattr("fairseq.utils.move_to_cuda", lambda *args: seen.append(args))
    devices.to_device(sample, torch.device("cuda:1"))
    assert seen == [(sample, torch.device("cuda:1"))]


def test_a_container_may_grant_fewer_cpus_than_there_are(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert devices.usable_cpus() == 2
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert devices.usable_cpus() == 1


@pytest.mark.gpu
def test_a_sample_on_a_gpu():
    device = devices.find_device("cuda")
    assert devices.to_device({"id": torch.arange(2)}, device)["id"].device == device

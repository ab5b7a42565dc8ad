"""The devices that verbs compute on."""

from types import SimpleNamespace

import pytest
import torch

from fairtale.cli import devices
from fairtale.errors import UserError


def test_a_device_is_the_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.find_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = SimpleNamespace(device=torch.device("cuda:0"))
    monkeypatch.setattr(torch, "empty", lambda size, device: found if device == "cuda" else None)
    assert devices.find_device() == torch.device("cuda:0")
    assert devices.find_device(cpu=True) == torch.device("cpu")


def test_a_gpu_that_does_not_work_is_an_error_and_no_silent_cpu(monkeypatch):
    def empty(*args, **kwargs):
        raise AssertionError("Torch not compiled with CUDA enabled\nand more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(UserError, match="^the GPU cannot be used .Torch not .*; give --cpu to"):
        devices.find_device()


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
    device = devices.find_device()
    assert devices.to_device({"id": torch.arange(2)}, device)["id"].device == device

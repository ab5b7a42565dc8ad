"""The arithmetic of an update, the launcher and the precision, in process."""

import argparse
import logging
import os
import sys
from types import SimpleNamespace

import pytest

from fairtale.cli import launch
from fairtale.cli.main import run_verb
from fairtale.errors import UserError

GPU = ["--update-tokens", "131072", "--max-tokens", "16384"]
BOTH = [*GPU, "--cpu-update-tokens", "8192", "--cpu-max-tokens", "2048"]


@pytest.fixture(autouse=True)
def commands(tmp_path, monkeypatch):
    (tmp_path / "fairseq-train").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("N_GPUS", raising=False)
    return tmp_path


@pytest.fixture
def machine(monkeypatch):
    """``machine(count, bf16)``: pretend GPUs; on a CPU bf16 is measured to be faster."""

    def pretend(count, bf16=True):
        cuda = SimpleNamespace(
            is_available=lambda: count > 0,
            device_count=lambda: count,
            is_bf16_supported=lambda _emulated: bf16,
        )
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        monkeypatch.setattr(launch, "time_products", lambda width: {"fp32": 84e9, "bf16": 149e9})

    return pretend


def composed(words, gpus=None, command=("fairseq-train", "DATA", "--lr", "1")):
    parser = argparse.ArgumentParser()
    launch.add_arguments(parser)
    return launch.compose(parser.parse_args([*words, *command]), gpus)


@pytest.mark.parametrize(
    ("devices", "update_tokens", "max_tokens", "expected"),
    [
        (1, 131072, 16384, "1 x 16384 x 8 = 131072 tokens"),
        (8, 131072, 16384, "8 x 16384 x 1 = 131072 tokens"),
        (3, 131072, 16384, "3 x 16384 x 3 = 147456 tokens"),  # never fewer than asked for
        (16, 100, 16384, "16 x 16384 x 1 = 262144 tokens"),
        (1, 4096, None, "1 x 4096 x 1 = 4096 tokens"),
        (3, 4096, None, "3 x 1366 x 1 = 4098 tokens"),
        (4, 4096, 100, "4 x 100 x 11 = 4400 tokens"),
    ],
)
def test_an_update(devices, update_tokens, max_tokens, expected):
    assert str(launch.divide_update(devices, update_tokens, max_tokens)) == expected


def test_one_and_several_gpus(machine, commands, caplog):
    caplog.set_level(logging.INFO)
    machine(1)
    words = ["--max-tokens", "16384", "--update-freq", "8", "--bf16", "DATA", "--lr", "1"]
    assert composed(BOTH) == ["fairseq-train", *words]
    assert caplog.messages == [
        "== devices x max-tokens x update-freq: 1 x 16384 x 8 = 131072 tokens"
    ]
    machine(4, bf16=False)
    launcher = ["torchrun", "--standalone", "--nproc-per-node", "4"]
    words = ["--max-tokens", "16384", "--update-freq", "2", "--fp16", "DATA", "--lr", "1"]
    assert composed(BOTH) == [*launcher, str(commands / "fairseq-train"), *words]
    assert composed(BOTH, "1")[:5] == ["fairseq-train", *words[:3], "8"]


def test_without_a_gpu(machine, caplog):
    caplog.set_level(logging.INFO)
    machine(0)
    words = ["--max-tokens", "2048", "--update-freq", "4", "--bf16", "--cpu", "DATA", "--lr", "1"]
    assert composed(BOTH) == ["fairseq-train", *words]
    assert caplog.messages[1] == (
        "== matrix products on this CPU: fp32 84 GFLOP/s, bf16 149 GFLOP/s; training in "
        "bf16 (--precision overrides this)"
    )
    assert composed(GPU)[1:5] == ["--max-tokens", "16384", "--update-freq", "8"]
    machine(2)
    assert composed(BOTH, "0")[1:7] == words[:6]  # asked for
    machine(0)
    assert "--cpu" not in composed(BOTH, "2")  # fairseq-train says that there is none


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("gpus", ["0", "1"])
def test_a_precision_is_taken_as_it_is(precision, gpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # the machine need not be inspected
    words = composed([*BOTH, "--precision", precision], gpus)
    assert [w for w in words if w in ("--fp16", "--bf16")] == [f"--{precision}"] * (
        precision != "fp32"
    )


@pytest.mark.parametrize("option", ["--bf16", "--fp16", "--memory-efficient-fp16", "--amp"])
def test_the_precision_of_the_command_wins(option, machine):
    for count in (0, 1):
        machine(count)
        words = composed(BOTH, command=("fairseq-train", "DATA", option))
        assert [w for w in words if "16" in w and w.startswith("--") or w == option] == [option]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (None, []),  # as the recipes trained before they measured
        ("", []),
        ("{'_name': None, 'common': {'fp16': False, 'bf16': True, 'tpu': False}}", ["--bf16"]),
        ("{'_name': None, 'common': {'fp16': False, 'bf16': False}, 'x': {'bf16': True}}", []),
    ],
)
def test_a_training_that_goes_on_keeps_its_precision(tmp_path, machine, caplog, log, words):
    caplog.set_level(logging.INFO)
    machine(0)  # where bf16 is measured to be faster
    command = ("fairseq-train", "DATA", "--save-dir", "x", "--lr=1", f"--save-dir={tmp_path}")
    assert "--bf16" in composed(BOTH, command=command)
    (tmp_path / "checkpoint_last.pt").touch()
    if log is not None:
        first = "| {'_name': None, 'common': {'fp16': True}}\n"  # an earlier attempt
        (tmp_path / "train.log").write_text(f"{first if log else ''}2026 | {log}\n")
    caplog.clear()
    found = [w for w in composed(BOTH, command=command) if w in ("--bf16", "--fp16")]
    assert found == words
    assert f"resuming in {'bf16' if words else 'fp32'}, as the training began" in caplog.text
    assert "--fp16" in composed([*BOTH, "--precision", "fp16"], command=command)


def test_products_are_timed_in_both_precisions():
    import torch

    threads, precision = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision
    rates = launch.time_products(64)
    assert list(rates) == ["fp32", "bf16"] and min(rates.values()) > 0
    assert torch.get_num_threads() == threads
    assert torch.backends.mkldnn.matmul.fp32_precision == precision


def test_the_command_is_printed_or_takes_this_process(machine, commands, monkeypatch, capsys):
    machine(1)
    run_verb(["launch", "--print", *GPU, "fairseq-train", "a b", "--lr", "$x"])
    expected = "fairseq-train --max-tokens 16384 --update-freq 8 --bf16 'a b' --lr '$x'\n"
    assert capsys.readouterr().out == expected
    called = []
    monkeypatch.setattr(os, "execvp", lambda *words: called.append(words))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    run_verb(["launch", *GPU, "fairseq-train", "DATA"])
    words = ["fairseq-train", "--max-tokens", "16384", "--update-freq", "8", "--bf16", "DATA"]
    assert called == [("fairseq-train", words)]


def test_mistakes(machine, capsys):
    machine(1)
    with pytest.raises(UserError, match="N_GPUS=-1: must be a whole number"):
        composed(GPU, "-1")
    with pytest.raises(UserError, match="fairseq-tain is not installed"):
        composed(GPU, command=("fairseq-tain",))
    with pytest.raises(UserError, match="COMMAND is missing"):
        run_verb(["launch", *GPU])
    for words in (["--max-tokens", "5"], [*GPU, "--precision", "int8"], ["--update-tokens", "0"]):
        with pytest.raises(SystemExit) as error:
            run_verb(["launch", *words, "fairseq-train"])
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")

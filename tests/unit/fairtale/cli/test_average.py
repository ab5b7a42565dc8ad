"""``fairtale average``: which checkpoints, and what their mean is."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from fairtale import compat  # noqa: F401  (declares what checkpoints may hold)
from fairtale.cli.average import average, find_checkpoints, run
from fairtale.errors import UserError


def save(path, seed, **others):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(3, 2, generator=generator)
    model = {
        "embed": table,
        "output": table,  # one tensor under two names
        "half": torch.randn(4, generator=generator).half(),
        "version": torch.tensor([3]),
        **others,
    }
    state = {"cfg": None, "args": None, "model": model, "task_state": {"n": seed}}
    torch.save({**state, "last_optimizer_state": {"big": table}}, path)
    return str(path)


def test_the_mean_of_all(tmp_path):
    files = [save(tmp_path / f"{n}.pt", n) for n in range(3)]
    run(Namespace(checkpoint=files, output=str(tmp_path / "new" / "mean.pt"), last=5))
    state = torch.load(tmp_path / "new" / "mean.pt")
    parts = [torch.load(file)["model"] for file in files]
    for name in ("embed", "output", "half"):
        expected = sum(part[name].double() for part in parts) / 3
        assert torch.equal(state["model"][name], expected.to(parts[0][name].dtype))
    assert state["model"]["version"].tolist() == [3]
    assert state["model"]["embed"].data_ptr() == state["model"]["output"].data_ptr()
    assert state["task_state"] == {"n": 0} and state["last_optimizer_state"] is None


def test_files_are_left_as_they_are(tmp_path):
    files = [save(tmp_path / f"{n}.pt", n) for n in range(2)]
    before = [Path(file).read_bytes() for file in files]
    average(files)
    assert [Path(file).read_bytes() for file in files] == before


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"more": torch.ones(1)}, r"1.pt: not the same model as \S+0.pt \(more differs\)"),
        ({"embed": torch.ones(2, 2)}, r"\(embed differs\)"),
        ({"version": torch.tensor([2])}, r"1.pt: version differs from that of \S+0.pt"),
    ],
)
def test_models_that_differ(tmp_path, others, message):
    with pytest.raises(UserError, match=message):
        average([save(tmp_path / "0.pt", 0), save(tmp_path / "1.pt", 1, **others)])


def test_no_checkpoint(tmp_path):
    (tmp_path / "1.pt").write_text("x")
    with pytest.raises(UserError, match="1.pt: "):
        average([save(tmp_path / "0.pt", 0), str(tmp_path / "1.pt")])


@pytest.mark.parametrize(
    ("names", "last", "found"),
    [
        (["_1_90", "_2_100", "_1_9", "7", "_best", "_last"], 2, ["_2_100", "_1_90"]),
        (["9", "10", "11", "_best"], 2, ["11", "10"]),
    ],
)
def test_the_newest_of_a_folder(tmp_path, names, last, found):
    for name in names:
        (tmp_path / f"checkpoint{name}.pt").write_text("")
    files = find_checkpoints([str(tmp_path)], last)
    assert files == [str(tmp_path / f"checkpoint{name}.pt") for name in found]


def test_what_cannot_be_averaged(tmp_path):
    file = save(tmp_path / "checkpoint_1_2.pt", 0)
    for names, message in (
        ([file], "only one checkpoint; give two or more"),
        ([file, str(tmp_path / "no.pt")], "no.pt: no such checkpoint"),
        ([str(tmp_path), file], "give either one folder or checkpoint files"),
        ([str(tmp_path)], r"--last 5: \S+ holds 1 checkpoints .*--keep-interval-updates 5"),
    ):
        with pytest.raises(UserError, match=message):
            find_checkpoints(names, 5)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, wrong):
    broken = torch.tensor([1.0, wrong])
    files = [
        save(tmp_path / "a.pt", 1, bias=torch.zeros(2)),
        save(tmp_path / "b.pt", 2, bias=broken),
    ]
    for order in (files, files[::-1]):
        with pytest.raises(UserError, match="b.pt: bias holds NaN or infinite numbers"):
            average(order)


def test_averages_of_training_are_left_out_with_a_word(tmp_path, caplog):
    files = [save(tmp_path / f"{n}.pt", n) for n in range(2)]
    for file in files:
        state = torch.load(file)
        torch.save({**state, "extra_state": {"ema": {}, "ema_fp32_params": {}, "epoch": 3}}, file)
    assert average(files)["extra_state"] == {"epoch": 3}
    assert "0.pt also holds averaged weights (--store-ema): they are left out" in caplog.text

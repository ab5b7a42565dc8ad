"""Adapters as people use them: trained, saved, decoded with their base, and merged."""

import json
import re
from argparse import Namespace

import pytest
import torch

from fairtale.cli import gpt2_adapter, gpt2_merge
from fairtale.compat import read_checkpoint
from fairtale.errors import UserError
from fairtale.modules import lora_state
from tests.cli.fairtale_command import fairtale

RANK = ["--lora-rank", 4]
OPTIONS = [*RANK, "--lora-alpha", 16, "--lora-dropout", 0.1, "--lr", 0.05]
SHORT = (
    "--no-epoch-checkpoints --disable-validation --max-tokens 600 --tokens-per-sample 96".split()
)


def tune(fairseq, stories, base, folder, *options, **kwargs):
    """Train adapters on a base."""
    start = [] if base is None else ["--finetune-from-model", base]
    words = [*SHORT, "--max-update", 12, *start, *OPTIONS, *options]
    return fairseq.train(stories.bin, folder, *words, **kwargs)


@pytest.fixture(scope="module")
def tuned(fairseq, stories, checkpoint, tmp_path_factory):
    """A checkpoint of an adapter's training."""
    folder = tmp_path_factory.mktemp("tuned")
    result = tune(fairseq, stories, checkpoint, folder)
    assert "(num. trained: 3,072)" in result.out  # 2 layers x 4 x (128 + 64 + 96 + 96)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def adapter(tuned, tmp_path_factory):
    """The adapter's folder, made by the real command."""
    folder = tmp_path_factory.mktemp("adapter") / "a"
    done = fairtale("gpt2", "adapter", tuned, "--output", folder, "--base-model", "me/base")
    assert done.returncode == 0, done.stderr
    assert "adapter of rank 4 on qkv,out,fc1,fc2 of 2 layers: " in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/base" and config["lora_alpha"] == 16
    return folder


@pytest.fixture(scope="module")
def other(checkpoint, tmp_path_factory):
    """A base of the same shape, of which one weight differs."""
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["transformer.layers.1.fc1.weight"][3, 5] += 0.001
    path = tmp_path_factory.mktemp("other") / "checkpoint.pt"
    torch.save(state, path)
    return path


def loss(result):
    return float(re.search(r"Loss \(base 2\): ([\d.]+)", result.out)[1])


def evaluate(fairseq, stories, path, *options, **kwargs):
    words = ["--path", path, "--gen-subset", "valid", "--max-tokens", 900, "--cpu", *options]
    return fairseq.run("eval_lm", stories.bin, *words, **kwargs)


# --------------------------------------------------------------------------------- training


def test_only_the_adapter_is_trained(tuned, checkpoint):
    base, state = read_checkpoint(str(checkpoint))["model"], read_checkpoint(str(tuned))
    model = state["model"]
    assert all(torch.equal(model[key], value) for key, value in base.items())
    new = model.keys() - base.keys()
    assert all(lora_state.is_adapter_key(key) for key in new)
    factors = [x for pair in lora_state.split_adapters(model).values() for x in pair]
    assert len(factors) == 16 and all(x.abs().max() > 0 for x in factors)
    moments = state["last_optimizer_state"]["state"]
    assert len(moments) == 16
    assert lora_state.recorded_base(model) == lora_state.base_fingerprint(base)


def test_resumed_training_ends_as_an_uninterrupted_one(
    fairseq, stories, checkpoint, tuned, tmp_path
):
    tune(fairseq, stories, checkpoint, tmp_path, "--max-update", 5)
    tune(fairseq, stories, None, tmp_path)
    once, twice = (
        read_checkpoint(str(path))["model"] for path in (tuned, tmp_path / "checkpoint_last.pt")
    )
    assert once.keys() == twice.keys()
    assert all(torch.equal(value, twice[key]) for key, value in once.items())


def test_bf16_trains_the_adapter_only(fairseq, stories, checkpoint, tmp_path, caplog):
    """The base is computed with in bf16, and saved as it is."""
    tune(fairseq, stories, checkpoint, tmp_path, "--bf16")
    path = str(tmp_path / "checkpoint_last.pt")
    base, state = read_checkpoint(str(checkpoint))["model"], read_checkpoint(path)
    model = state["model"]
    assert all(torch.equal(model[key], value) for key, value in base.items())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in base.values())
    assert len(state["last_optimizer_state"]["state"]) == 16
    assert lora_state.recorded_base(model) == lora_state.base_fingerprint(base)
    merge(path, tmp_path / "merged.pt")
    assert "does not hold the weights of its base" not in caplog.text

    # as earlier versions saved it
    rounded = {key: model[key].bfloat16().float() for key in base}
    torch.save({**state, "model": {**model, **rounded}}, tmp_path / "rounded.pt")
    merge(tmp_path / "rounded.pt", tmp_path / "merged.pt")
    assert "does not hold the weights of its base" in caplog.text


# --------------------------------------------------------------------- decoding and merging


def merge(path, output, adapter=None):
    folder = None if adapter is None else str(adapter)
    gpt2_merge.run(Namespace(checkpoint=str(path), lora_adapter=folder, output=str(output)))


def test_all_forms_have_the_same_loss(fairseq, stories, checkpoint, tuned, adapter, tmp_path):
    done = fairtale(
        *("gpt2", "merge", checkpoint, "--lora-adapter", adapter, "--output", tmp_path / "a.pt")
    )
    assert done.returncode == 0, done.stderr
    merge(tuned, tmp_path / "b.pt")
    with pytest.raises(UserError, match="the checkpoint itself; name another file"):
        merge(tuned, tuned)
    one, two = (read_checkpoint(str(tmp_path / name)) for name in ("a.pt", "b.pt"))
    assert one["model"].keys() == read_checkpoint(str(checkpoint))["model"].keys()
    assert all(torch.equal(value, two["model"][key]) for key, value in one["model"].items())
    with_adapter = ["--lora-adapter", adapter]
    found = loss(evaluate(fairseq, stories, checkpoint, *with_adapter))
    merged = loss(evaluate(fairseq, stories, tmp_path / "a.pt"))
    assert found == pytest.approx(merged, abs=2e-4)
    words = ["--path", checkpoint, "--cpu", "--max-tokens", 900, "--valid-subset", "valid"]
    result = fairseq.run("validate", stories.bin, *words, *with_adapter, "--log-format", "json")
    assert float(result.logged("valid")[-1]["valid_loss"]) == pytest.approx(found, abs=2e-3)


def test_generation_with_an_adapter(fairseq, stories, checkpoint, tuned, adapter):
    words = ["--cpu", "--beam", 2, "--max-len-b", 12]
    generate = ["--gen-subset", "valid", "--prompt-tokens", 5, *words]
    results = [
        fairseq.run("generate", stories.bin, "--path", path, *generate, *options).rows("H")
        for path, options in ((checkpoint, ["--lora-adapter", adapter]), (tuned, []))
    ]
    texts = [[columns[-1] for _, columns in rows] for rows in results]
    assert texts[0] == texts[1] and len(texts[0]) == 37
    asked = ["--path", checkpoint, *words, "--lora-adapter", adapter]
    spoken = fairseq.run("interactive", stories.bin, *asked, stdin="Once upon a time\n")
    assert len(spoken.rows("H")) == 1


# ------------------------------------------------------------------------------- refusals


def test_a_bad_option_of_training(fairseq, stories, checkpoint, tmp_path):
    result = tune(fairseq, stories, checkpoint, tmp_path, "--lora-rank", 33, check=False)
    assert result.status != 0
    assert "--lora-rank 33: must be at most 32, the width of qkv" in result.error
    assert not list(tmp_path.glob("*.pt"))


def test_training_needs_a_base_and_the_same_adapters(fairseq, stories, tuned, tmp_path):
    result = tune(fairseq, stories, None, tmp_path, check=False)
    assert result.status != 0 and "name their base with --finetune-from-model" in result.error
    words = [*SHORT, "--max-update", 1, "--finetune-from-model", tuned]
    result = fairseq.train(stories.bin, tmp_path, *words, check=False)
    assert result.status != 0 and "the model has no adapters" in result.error
    assert not list(tmp_path.glob("*.pt"))


def test_an_adapter_of_another_base_is_refused(fairseq, stories, other, adapter, tmp_path):
    result = evaluate(fairseq, stories, other, "--lora-adapter", adapter, check=False)
    assert result.status != 0 and "made for the base with fingerprint" in result.error
    assert "loading model" not in result.out  # refused before
    output = tmp_path / "merged.pt"
    with pytest.raises(UserError, match="made for the base with fingerprint"):
        merge(other, output, adapter)
    assert not output.exists()


def test_what_exists_is_not_overwritten(tuned, adapter):
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    with pytest.raises(UserError, match=f"--output {adapter}: exists already"):
        gpt2_adapter.run(Namespace(checkpoint=str(tuned), output=str(adapter), base_model=None))
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before

"""Folders of adapters: what is written is read again, and what does not fit is refused by name."""

import json

import pytest
import torch

from fairtale.errors import UserError
from fairtale.interop import peft_adapter
from fairtale.interop.adapter import Adapter
from fairtale.interop.peft_adapter import CONFIG, WEIGHTS, read_adapter, write_adapter
from fairtale.modules.lora import AdapterShape

safetensors = pytest.importorskip("safetensors", reason="needs the extra hf")

WIDTHS = {"qkv": (16, 48), "out": (16, 16), "fc1": (16, 32), "fc2": (32, 16)}
KEY = "base_model.model.transformer.h.{}.{}.lora_{}.weight"


def adapter_of(targets=("qkv", "fc2"), rank=3, alpha=6.0, layers=2, base="ab" * 32):
    generator = torch.Generator().manual_seed(0)
    weights = {
        (layer, target): (
            torch.randn(rank, WIDTHS[target][0], generator=generator),
            torch.randn(WIDTHS[target][1], rank, generator=generator),
        )
        for layer in range(layers)
        for target in targets
    }
    return Adapter("test", AdapterShape(rank, alpha, 0.1, targets), weights, base)


@pytest.fixture
def folder(tmp_path):
    write_adapter(str(tmp_path / "a"), adapter_of(), "me/base")
    return tmp_path / "a"


def change_config(folder, **values):
    config = json.loads((folder / CONFIG).read_text())
    config.update(values)
    (folder / CONFIG).write_text(json.dumps(config))


def change_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def assert_refused(folder, *parts):
    with pytest.raises(UserError) as error:
        read_adapter(str(folder))
    for part in (str(folder), *parts):
        assert part in str(error.value), error.value


# ------------------------------------------------------------------------------------- files


def test_what_is_written(folder):
    config = json.loads((folder / CONFIG).read_text())
    assert config == {
        "base_model_name_or_path": "me/base",
        "bias": "none",
        "fan_in_fan_out": True,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "peft_type": "LORA",
        "r": 3,
        "target_modules": ["attn.c_attn", "mlp.c_proj"],
        "task_type": "CAUSAL_LM",
    }
    with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt", "base_sha256": "ab" * 32}
        assert set(file.keys()) == {
            KEY.format(layer, path, factor)
            for layer in (0, 1)
            for path in ("attn.c_attn", "mlp.c_proj")
            for factor in "AB"
        }
    assert [path.name for path in folder.parent.iterdir()] == ["a"]  # nothing half-written is left
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1  # safetensors would let only the owner read its file


def test_there_and_back(folder):
    expected, found = adapter_of(), read_adapter(str(folder))
    assert found.shape == expected.shape and found.base == expected.base
    assert found.num_layers == 2 and found.weights.keys() == expected.weights.keys()
    for place, pair in expected.weights.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, found.weights[place], strict=True))


def test_an_alpha_that_is_no_whole_number_is_kept(tmp_path):
    write_adapter(str(tmp_path / "a"), adapter_of(alpha=2.5))
    assert read_adapter(str(tmp_path / "a")).shape.alpha == 2.5


def test_half_precision_is_read_exactly(folder):
    change_weights(folder, lambda w: w.update({k: v.bfloat16() for k, v in w.items()}))
    for place, pair in adapter_of().weights.items():
        for factor, found in zip(pair, read_adapter(str(folder)).weights[place]):
            assert torch.equal(found, factor.bfloat16().float())


def test_keys_of_a_model_without_head(folder):
    """peft on GPT2Model instead of GPT2LMHeadModel leaves ``transformer.`` out."""
    expected = read_adapter(str(folder)).weights

    def rename(weights):
        for key in list(weights):
            weights[key.replace("transformer.", "")] = weights.pop(key)

    change_weights(folder, rename)
    found = read_adapter(str(folder))
    assert found.weights.keys() == expected.keys() and found.base is None


def test_an_existing_folder_is_kept_and_an_empty_one_is_filled(folder, tmp_path):
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_adapter(str(folder), adapter_of(rank=2))
    assert (folder / WEIGHTS).read_bytes() == before
    (tmp_path / "empty").mkdir()
    write_adapter(str(tmp_path / "empty"), adapter_of(rank=2))
    assert read_adapter(str(tmp_path / "empty")).shape.rank == 2


def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(peft_adapter, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        write_adapter(str(tmp_path / "a"), adapter_of())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"peft_type": "IA3"}, ["peft_type is 'IA3'; only LORA"]),
        ({"use_dora": True, "bias": "all"}, ["use_dora=True", "bias='all'", "merge_and_unload"]),
        ({"rank_pattern": {"c_attn": 2}}, ["rank_pattern={'c_attn': 2}"]),
        ({"task_type": "SEQ_CLS"}, ["task_type='SEQ_CLS'"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights='pissa'"]),
        ({"something_new": {"x": 1}}, ["something_new={'x': 1}"]),
        ({"r": 4}, ["r=4 in adapter_config.json, but lora_A on attn.c_attn of layer 0 is 3x16"]),
        ({"r": "3"}, ["r='3'", "must be numbers"]),
        ({"r": None}, ["r=None"]),
        ({"r": True}, ["r=True"]),
        ({"lora_alpha": 10**400}, ["lora_alpha=1000", "must be numbers"]),
        ({"lora_dropout": "x"}, ["lora_dropout='x'", "must be numbers"]),
        ({"lora_dropout": [1]}, ["lora_dropout=[1]", "must be numbers"]),
        ({"use_rslora": "no"}, ["use_rslora='no': must be a boolean"]),
        ({"lora_alpha": 0}, ["--lora-alpha 0.0: must be > 0"]),
        ({"lora_dropout": 1.5}, ["--lora-dropout 1.5"]),
        ({"target_modules": ["c_attn"]}, ["target_modules=['c_attn']", "attn.c_attn, mlp.c_proj"]),
        ({"target_modules": ["c_attn", "c_proj"]}, ["target_modules=['c_attn', 'c_proj']"]),
    ],
)
def test_settings_that_do_not_fit(folder, values, parts):
    change_config(folder, **values)
    assert_refused(folder, *parts)


def test_settings_without_effect_are_accepted(folder):
    change_config(
        folder,
        something_new=None,
        another=False,
        rank_pattern={},
        peft_version="9.9",
        target_modules="all-linear",
        fan_in_fan_out=False,
        revision="main",
    )
    assert read_adapter(str(folder)).shape == adapter_of().shape


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda w: w.pop(KEY.format(1, "mlp.c_proj", "B")),
            ["layer 1 has no lora_B on mlp.c_proj"],
        ),
        (
            lambda w: [w.pop(KEY.format(0, "attn.c_attn", factor)) for factor in "AB"],
            ["layer 0 has no lora_A on attn.c_attn; all layers must have the same"],
        ),
        (
            lambda w: w.update(
                {"base_model.model.transformer.wte.lora_embedding_A": torch.ones(2)}
            ),
            ["unknown weight base_model.model.transformer.wte.lora_embedding_A", "no embedding"],
        ),
        (
            lambda w: w.update({KEY.format(0, "attn.c_qkv", "A"): torch.ones(3, 2)}),
            ["unknown weight", "attn.c_qkv"],
        ),
        (lambda w: w.update({KEY.format(0, "attn.c_attn", "A"): torch.ones(3)}), ["is 3"]),
        (lambda w: w.clear(), ["has no weights"]),
    ],
)
def test_weights_that_do_not_fit(folder, change, parts):
    change_weights(folder, change)
    assert_refused(folder, *parts)


@pytest.mark.parametrize(
    "change", [torch.Tensor.int, torch.Tensor.bool, lambda x: x * torch.nan, lambda x: x / 0]
)
def test_weights_that_are_no_numbers(change, folder):
    change_weights(folder, lambda w: w.update({name: change(value) for name, value in w.items()}))
    assert_refused(folder, "has infinite values or no numbers")


@pytest.mark.parametrize("number", ["9" * 5000, "01", "\u0661"])
def test_layers_that_are_no_numbers(number, folder):
    def change(weights):
        for factor in "AB":
            old = KEY.format(1, "mlp.c_proj", factor)
            weights[old.replace("h.1", f"h.{number}")] = weights.pop(old)

    change_weights(folder, change)
    assert_refused(folder, "unknown weight")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file(folder, size):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:size])
    assert_refused(folder, "cut short or damaged")


def test_missing_and_damaged_files(folder, tmp_path):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    assert_refused(folder, f"{WEIGHTS} is missing", "safe_serialization=True")
    (folder / "adapter_model.bin").unlink()
    assert_refused(folder, f"{WEIGHTS} is missing", "copy it again")
    (folder / CONFIG).write_text("{")
    assert_refused(folder, "not valid JSON")
    (folder / CONFIG).write_text("[]")
    assert_refused(folder, "not a JSON object")
    assert_refused(tmp_path / "nowhere", f"{CONFIG} is missing")

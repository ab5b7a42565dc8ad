"""Exported folders: what is written, what survives a round trip, and what is refused."""

import json
import os

import pytest
import torch

from fairtale.compat import read_checkpoint
from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.errors import UserError
from tests.byte_level_helpers import TEXTS
from tests.byte_level_helpers import train_byte_level as trained_tokenizer
from tests.gpt2_helpers import (
    END,
    assert_equal_tensors,
    run_export,
    run_import,
    tensors_of,
    train_byte_level,
    write_folder,
)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def change_checkpoint(source, target, change):
    """Write a copy of a checkpoint to which ``change`` was applied."""
    state = read_checkpoint(str(source))
    change(state)
    torch.save(state, target)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with entries without a token, and odd settings."""
    path = tmp_path_factory.mktemp("original") / "hf"
    changes = dict(n_inner=24, activation_function="silu", layer_norm_epsilon=2e-6, attn_pdrop=0.25)
    return write_folder(path, more_entries=3, **changes)


@pytest.fixture(scope="module")
def imported(folder):
    run_import(folder, folder.parent / "imported")
    return folder.parent / "imported"


@pytest.fixture(scope="module")
def exported(imported):
    run_export(imported / "checkpoint.pt", imported.parent / "exported")
    return imported.parent / "exported"


def test_weights_survive_to_the_bit(folder, exported):
    assert_equal_tensors(tensors_of(exported), tensors_of(folder))


def test_a_second_round_trip_changes_no_byte(imported, exported, tmp_path):
    run_import(exported, tmp_path / "imported")
    run_export(tmp_path / "imported" / "checkpoint.pt", tmp_path / "exported")
    names = {path.name for path in exported.iterdir()}
    assert names == {path.name for path in (tmp_path / "exported").iterdir()}
    for name in names:
        assert (tmp_path / "exported" / name).read_bytes() == (exported / name).read_bytes(), name
    for name in ("dict.txt", "tokenizer.json"):
        assert (tmp_path / "imported" / name).read_bytes() == (imported / name).read_bytes(), name
    ours = read_checkpoint(str(imported / "checkpoint.pt"))
    again = read_checkpoint(str(tmp_path / "imported" / "checkpoint.pt"))
    assert_equal_tensors(again["model"], ours["model"])
    assert again["task_state"] == ours["task_state"]
    assert again["cfg"]["model"] == ours["cfg"]["model"]


def test_settings(exported):
    config = read(exported / "config.json")
    expected = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 284,
        "n_positions": 32,
        "n_embd": 16,
        "n_inner": 24,
        "activation_function": "silu",
        "layer_norm_epsilon": 2e-6,
        "attn_pdrop": 0.25,
        "tie_word_embeddings": True,
        "bos_token_id": 280,
        "eos_token_id": 280,
        "pad_token_id": None,
        "torch_dtype": "float32",
    }
    assert expected.items() <= config.items()
    generation = read(exported / "generation_config.json")
    assert generation == {"_from_model_config": True, "bos_token_id": 280, "eos_token_id": 280}
    # the same rights as other new files
    modes = {path.stat().st_mode for path in exported.iterdir()}
    assert len(modes) == 1


def test_both_forms_of_the_tokenizer_are_the_same(exported, tmp_path):
    """Without tokenizer.json, vocab.json and merges.txt give the same ids."""
    assert read(exported / "special_tokens_map.json") == {"bos_token": END, "eos_token": END}
    for name in os.listdir(exported):
        if name not in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((exported / name).read_bytes())
    one, two = load_byte_level(str(exported)), load_byte_level(str(tmp_path))
    text = f"Once upon a hen — курица{END}\n\n 12"
    assert one.encode_ids(text) == two.encode_ids(text)
    assert 280 in one.encode_ids(text)
    assert read(exported / "added_tokens.json") == {END: 280}


def test_shards(imported, exported, tmp_path):
    said = run_export(imported / "checkpoint.pt", tmp_path / "hf", max_shard_bytes=8000)
    index = read(tmp_path / "hf" / "model.safetensors.index.json")
    files = sorted(path.name for path in (tmp_path / "hf").glob("*.safetensors"))
    assert len(files) > 2 and f"{len(files)} files with weights" in said
    assert files == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, 1 + len(files))
    ]
    assert sorted(set(index["weight_map"].values())) == files
    expected = tensors_of(exported)
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in expected.values())
    assert_equal_tensors(tensors_of(tmp_path / "hf"), expected)
    # only a file of a single tensor may be larger
    assert all(
        (tmp_path / "hf" / name).stat().st_size < 12000
        or list(index["weight_map"].values()).count(name) == 1
        for name in files
    )
    run_import(tmp_path / "hf", tmp_path / "again")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, imported, exported, tmp_path):
    run_export(imported / "checkpoint.pt", tmp_path / "hf", dtype=dtype)
    kind = getattr(torch, dtype)
    expected = {name: tensor.to(kind) for name, tensor in tensors_of(exported).items()}
    assert_equal_tensors(tensors_of(tmp_path / "hf"), expected)
    assert read(tmp_path / "hf" / "config.json")["torch_dtype"] == dtype


def test_weights_too_large_for_fp16(imported, tmp_path):
    def enlarge(state):
        state["model"]["transformer.layer_norm.weight"] = torch.full((16,), 1e5)

    path = change_checkpoint(imported / "checkpoint.pt", tmp_path / "large.pt", enlarge)
    with pytest.raises(UserError, match="--dtype float16: layer_norm.weight is too large"):
        run_export(path, tmp_path / "out", imported, dtype="float16")
    assert os.listdir(tmp_path) == ["large.pt"]
    run_export(path, tmp_path / "out", imported, dtype="bfloat16")


# ------------------------------------------------------------------------ where the data are


def test_a_model_trained_on_a_tokenizer_of_its_own(imported, tmp_path):
    """A stock dictionary with the special symbols at 0 to 3 keeps them; all rows are written."""
    data = trained_tokenizer(tmp_path / "data", TEXTS * 3, vocab_size=300)

    def retrain(state):
        state["model"]["transformer.embed_tokens.weight"] = torch.randn(300, 16)
        state["task_state"] = {}
        state["cfg"]["task"]["data"] = f"/nowhere:{data}"

    checkpoint = change_checkpoint(imported / "checkpoint.pt", tmp_path / "own.pt", retrain)
    run_export(checkpoint, tmp_path / "out")  # the data folder is known from the training
    config = read(tmp_path / "out" / "config.json")
    roles = [config[f"{role}_token_id"] for role in ("bos", "pad", "eos")]
    assert roles == [0, 1, 2] and config["vocab_size"] == 300
    assert read(tmp_path / "out" / "special_tokens_map.json") == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    assert read(tmp_path / "out" / "tokenizer_config.json")["split_special_tokens"] is True
    assert not (tmp_path / "out" / "added_tokens.json").exists()
    run_import(tmp_path / "out", tmp_path / "again")
    again = read_checkpoint(str(tmp_path / "again" / "checkpoint.pt"))
    assert_equal_tensors(again["model"], read_checkpoint(str(checkpoint))["model"])
    bpe = load_byte_level(str(tmp_path / "again" / "tokenizer.json"))
    assert bpe.encode("</s>") == "< / s >"  # letters of a text, here as in the training


def test_a_role_whose_token_is_an_ordinary_piece(tmp_path):
    """transformers would cut texts at a special token that the tokenizer does not cut at."""
    run_import(write_folder(tmp_path / "hf"), tmp_path / "imported", bos=4)
    run_export(tmp_path / "imported" / "checkpoint.pt", tmp_path / "out")
    assert read(tmp_path / "out" / "config.json")["bos_token_id"] == 4
    assert read(tmp_path / "out" / "special_tokens_map.json") == {"eos_token": END}
    assert read(tmp_path / "out" / "tokenizer_config.json")["split_special_tokens"] is False


def test_data_of_another_model(imported, tmp_path):
    other = train_byte_level(num_merges=20)
    run_import(write_folder(tmp_path / "hf", tokenizer=other, more_entries=7), tmp_path / "other")
    with pytest.raises(UserError, match="another dictionary than .*dict.txt: give --data"):
        run_export(imported / "checkpoint.pt", tmp_path / "out", tmp_path / "other")
    other.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "dict.txt").write_bytes((imported / "dict.txt").read_bytes())
    with pytest.raises(UserError, match="entry 276 is .* do not belong together"):
        run_export(imported / "checkpoint.pt", tmp_path / "out", tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no dict.txt with a tokenizer.json beside it: give --data"):
        run_export(imported / "checkpoint.pt", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------- what is refused


def of_unilm(state):
    state["cfg"]["model"]["_name"] = "unilm_seq2seq_tiny"


def of_another_model(state):
    state["cfg"]["model"]["_name"] = "transformer_iwslt_de_en"


def with_segments(state):
    state["model"]["transformer.embed_segments.weight"] = torch.zeros(4, 16)


def normalised_after(state):
    state["cfg"]["model"]["decoder_normalize_after"] = True


def with_adapters(state):
    state["model"]["transformer.layers.0.fc1.lora_A"] = torch.zeros(2, 16)


def with_another_width(state):
    state["cfg"]["model"]["decoder_ffn_embed_dim"] = 64


def without_a_tensor(state):
    del state["model"]["transformer.layer_norm.bias"]


def with_infinity(state):
    state["model"]["transformer.layer_norm.bias"] = torch.full((16,), torch.inf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_unilm, r"both directions \(unilm_seq2seq\)"),
        (of_another_model, "its model is transformer, not gpt"),
        (with_segments, r"embeddings of segments \(dialog_lm\)"),
        (normalised_after, "--decoder-normalize-after"),
        (with_adapters, "fairtale gpt2 merge"),
        (with_another_width, r"layers.0.fc1.bias has the shape \(24,\), and \(64,\) is expected"),
        (without_a_tensor, "layer_norm.bias has the shape of no tensor"),
        (with_infinity, "layer_norm.bias has infinite values"),
    ],
)
def test_checkpoints(change, message, imported, tmp_path):
    path = change_checkpoint(imported / "checkpoint.pt", tmp_path / "changed.pt", change)
    with pytest.raises(UserError, match=message):
        run_export(path, tmp_path / "out", imported)
    assert os.listdir(tmp_path) == ["changed.pt"]


def test_all_reasons_at_once(imported, tmp_path):
    def change(state):
        with_segments(state)
        normalised_after(state)

    path = change_checkpoint(imported / "checkpoint.pt", tmp_path / "changed.pt", change)
    with pytest.raises(UserError, match="segments .*; it normalises"):
        run_export(path, tmp_path / "out", imported)


def test_files(imported, tmp_path):
    with pytest.raises(UserError, match="nowhere.pt: no such file"):
        run_export(tmp_path / "nowhere.pt", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        run_export(imported / "checkpoint.pt", tmp_path / "out")


def test_settings_and_weights_that_are_missing(imported, tmp_path):
    def refused(change, reason):
        path = change_checkpoint(imported / "checkpoint.pt", tmp_path / "a.pt", change)
        with pytest.raises(UserError, match=reason):
            run_export(path, tmp_path / "out", imported)
        assert not (tmp_path / "out").exists()

    positions = "transformer.embed_positions.weight"
    refused(lambda state: state["model"].pop(positions), f"{positions} has the shape of no tensor")
    wrong = "a setting of its model is missing or wrong"
    refused(lambda state: state["cfg"]["model"].update(decoder_layers="x"), wrong)
    refused(lambda state: state["cfg"]["model"].pop("decoder_embed_dim"), wrong)

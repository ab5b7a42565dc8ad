"""Altered folders that are refused by name, with nothing written."""

import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from fairtale.data.corpus.tokenizer_dictionary import read_dictionary
from fairtale.errors import UserError
from fairtale.interop import gpt2_import
from tests.gpt2_helpers import (
    END,
    WEIGHTS,
    as_shards,
    change_json,
    rewrite,
    run_import,
    tensors_of,
    train_byte_level,
    write_folder,
    write_json,
)


def refused(folder, output, *parts, **ids):
    with pytest.raises(UserError) as error:
        run_import(folder, output, **ids)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    assert os.listdir(output.parent) == ["hf"]  # nothing was written


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_type": "gpt_neo"}, ["model_type is 'gpt_neo'"]),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, ["GPT2DoubleHeadsModel"]),
        ({"activation_function": "mish"}, ["activation_function 'mish'", "gelu_new"]),
        ({"scale_attn_weights": False}, ["scale_attn_weights is false"]),
        ({"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx is true"]),
        ({"add_cross_attention": True}, ["add_cross_attention is true"]),
        ({"auto_map": {"AutoModel": "code.Model"}}, ["auto_map"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({"n_ctx": 16}, ["n_positions is 32 and n_ctx 16"]),
        ({"n_head": 3}, ["n_head 3 does not divide n_embd 16"]),
        ({"n_layer": "two"}, ["n_layer is 'two'"]),
        ({"layer_norm_epsilon": 0}, ["layer_norm_epsilon is 0"]),
        ({"attn_pdrop": 1.5}, ["attn_pdrop is 1.5"]),
        ({"tie_word_embeddings": False}, ["lm_head.weight is missing"]),
        ({"n_layer": 3}, ["missing: transformer.h.2.ln_1.weight", "and 7 more"]),
        ({"n_layer": 1}, ["not of a GPT-2: transformer.h.1."]),
        ({"n_positions": 16}, ["wpe.weight [32, 16] instead of [16, 16]"]),
        ({"vocab_size": 280}, [END, "outside of the embedding of 280 entries"]),
        ({"eos_token_id": 50256}, ["eos is 50256 in config.json", "--eos-token-id"]),
        (
            {"eos_token_id": [5, 280]},
            ["eos is [5, 280], not the id of one token", "--eos-token-id"],
        ),
        ({"eos_token_id": None, "bos_token_id": None}, ["--eos-token-id", END]),
        # values of other kinds
        ({"n_layer": 10**12}, ["1,000,000,000,000 layers, but the files have only"]),
        ({"activation_function": []}, ["activation_function [] is none of"]),
        ({"architectures": [{}]}, ["architectures is [{}]"]),
        ({"model_type": None, "architectures": 5}, ["model_type is None"]),
        ({"layer_norm_epsilon": float("nan")}, ["layer_norm_epsilon is nan"]),
        ({"layer_norm_epsilon": float("inf")}, ["layer_norm_epsilon is inf"]),
        ({"layer_norm_epsilon": 10**400}, ["layer_norm_epsilon is 1000"]),
        ({"eos_token_id": "x"}, ["eos_token_id is 'x', not the id", "--eos-token-id"]),
        ({"bos_token_id": {}}, ["bos is {}, not the id", "--bos-token-id"]),
    ],
)
def test_settings(changes, parts, tmp_path):
    folder = write_folder(tmp_path / "hf")
    change_json(folder / "config.json", **changes)
    refused(folder, tmp_path / "out", *parts)


def test_all_faults_of_the_settings_at_once(tmp_path):
    folder = write_folder(tmp_path / "hf")
    change_json(folder / "config.json", scale_attn_weights=False, activation_function="sigmoid")
    refused(folder, tmp_path / "out", "scale_attn_weights", "'sigmoid'")


def test_files_that_disagree_on_a_role(tmp_path):
    folder = write_folder(tmp_path / "hf")
    write_json(folder / "generation_config.json", {"eos_token_id": 4})
    where = ["280 (<|endoftext|>) in config.json", "4 (%) in generation_config.json"]
    refused(folder, tmp_path / "out", "eos is", *where)
    write_json(folder / "generation_config.json", {})
    write_json(folder / "special_tokens_map.json", {"bos_token": {"content": "a"}})
    refused(folder, tmp_path / "out", "bos is", "special_tokens_map.json", "--bos-token-id")
    # a person may decide
    run_import(folder, tmp_path / "out", bos=3, eos=280)
    dictionary = read_dictionary(str(tmp_path / "out" / "dict.txt"))
    assert (dictionary.bos(), dictionary.eos()) == (3, 280)


@pytest.mark.parametrize("value", [5, [], {}, {"content": 5}, {"content": ["a"]}])
@pytest.mark.parametrize("file", ["special_tokens_map.json", "tokenizer_config.json"])
def test_special_tokens_of_other_kinds(file, value, tmp_path):
    folder = write_folder(tmp_path / "hf")
    write_json(folder / file, {"eos_token": value})
    refused(folder, tmp_path / "out", file)


def test_a_given_id_must_be_in_the_embedding(tmp_path):
    folder = write_folder(tmp_path / "hf")
    refused(folder, tmp_path / "out", "--pad-token-id", "outside", pad=281)


def change_tensors(change):
    def alter(folder):
        tensors = tensors_of(folder)
        change(tensors)
        rewrite(folder, tensors)

    return alter


def head_that_differs(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1e-6


def one_is_missing(tensors):
    del tensors["transformer.h.1.mlp.c_fc.bias"]


def one_is_too_many(tensors):
    tensors["transformer.h.0.crossattention.q_attn.weight"] = torch.zeros(16, 16)


def some_without_prefix(tensors):
    tensors["wpe.weight"] = tensors.pop("transformer.wpe.weight")


def no_number(tensors):
    tensors["transformer.h.0.mlp.c_fc.weight"][3, 4] = torch.nan


def whole_numbers(tensors):
    name = "transformer.wpe.weight"
    tensors[name] = tensors[name].to(torch.uint8)


def double_precision(tensors):
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].double()


def a_mask_that_is_not_causal(tensors):
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
    tensors["transformer.h.1.attn.bias"] = mask & ~mask.tril(-8)


def a_mask_of_another_size(tensors):
    tensors["transformer.h.1.attn.bias"] = torch.ones(1, 1, 16, 16).tril()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (head_that_differs, ["lm_head.weight differs from transformer.wte.weight"]),
        (one_is_missing, ["missing: transformer.h.1.mlp.c_fc.bias"]),
        (one_is_too_many, ["not of a GPT-2: transformer.h.0.crossattention"]),
        (some_without_prefix, ["missing: transformer.wpe.weight", "not of a GPT-2: wpe.weight"]),
        (no_number, ["h.0.mlp.c_fc.weight has infinite values or no numbers"]),
        (whole_numbers, ["torch.uint8, not floats"]),
        (double_precision, ["ln_f.bias", "F64", "float32, float16 and bfloat16"]),
        (a_mask_that_is_not_causal, ["h.1.attn.bias is not causal"]),
        (a_mask_of_another_size, ["h.1.attn.bias [1, 1, 16, 16] instead of [1, 1, 32, 32]"]),
    ],
)
def test_tensors(change, parts, tmp_path):
    folder = write_folder(tmp_path / "hf")
    change_tensors(change)(folder)
    refused(folder, tmp_path / "out", *parts)


def cut_short(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


def header_only(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: 8 + struct.unpack("<Q", data[:8])[0]])


def no_weights(folder):
    (folder / WEIGHTS).unlink()


def weights_twice(folder):
    write_json(folder / f"{WEIGHTS}.index.json", {"weight_map": {"a": "b.safetensors"}})


def a_missing_shard(folder):
    as_shards(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def a_shard_of_another_model(folder):
    as_shards(folder)
    save_file({"other": torch.zeros(2)}, folder / "model-00002-of-00003.safetensors")


def a_shard_outside(folder):
    as_shards(folder)
    index = {"transformer.wte.weight": "../model.safetensors"}
    write_json(folder / f"{WEIGHTS}.index.json", {"weight_map": index})


class Code:
    """An object whose unpickling would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def a_pickle_with_code(folder):
    rewrite(folder, {"wte.weight": Code(str(folder.parent / "executed"))}, "pytorch_model.bin")


def a_pickle_of_something_else(folder):
    rewrite(folder, {"wte.weight": "text"}, "pytorch_model.bin")


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def another_tokenizer(folder):
    train_byte_level(num_merges=60).save(str(folder / "tokenizer.json"))


def broken_settings(folder):
    (folder / "config.json").write_text('{"model_type": "gpt2",')


def settings_that_are_a_list(folder):
    (folder / "config.json").write_text("[]")


def no_settings(folder):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("alter", "parts"),
    [
        (cut_short, [WEIGHTS, "cut short or damaged"]),
        (header_only, [WEIGHTS, "cut short or damaged"]),
        (no_weights, ["has no weights: model.safetensors"]),
        (weights_twice, ["has both model.safetensors and model.safetensors.index.json"]),
        (a_missing_shard, ["model-00002-of-00003.safetensors is missing"]),
        (a_shard_of_another_model, ["is missing, which the index says"]),
        (a_shard_outside, ["'../model.safetensors' is not the name"]),
        (a_pickle_with_code, ["pytorch_model.bin: refused", "mkdir"]),
        (a_pickle_of_something_else, ["wte.weight is not a tensor, but str"]),
        (no_tokenizer, ["vocab.json is missing"]),
        (another_tokenizer, ["outside of the embedding"]),
        (broken_settings, ["config.json: not valid JSON"]),
        (settings_that_are_a_list, ["config.json: not a JSON object"]),
        (no_settings, ["config.json: no such file"]),
    ],
)
def test_files(alter, parts, tmp_path):
    folder = write_folder(tmp_path / "hf")
    alter(folder)
    refused(folder, tmp_path / "out", *parts)


def test_a_tokenizer_with_more_entries_than_the_embedding(tmp_path):
    tokenizer = train_byte_level(first=(END,), last=())
    config = {"vocab_size": 270, "bos_token_id": 0, "eos_token_id": 0}
    folder = write_folder(tmp_path / "hf", tokenizer=tokenizer, **config)
    refused(
        folder, tmp_path / "out", "the tokenizer has 281 entries, more than the embedding's 270"
    )


def test_an_existing_output_is_kept(tmp_path):
    folder = write_folder(tmp_path / "hf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="--output .*out: exists already"):
        run_import(folder, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["mine"]
    (tmp_path / "out" / "mine").unlink()
    run_import(folder, tmp_path / "out")  # an empty folder is used
    assert len(os.listdir(tmp_path / "out")) == 3


def test_a_failing_check_leaves_nothing(tmp_path, monkeypatch):
    def fails(*args):
        raise UserError("differs")

    monkeypatch.setattr(gpt2_import, "can_compare", lambda: True)
    monkeypatch.setattr(gpt2_import, "compare_logits", fails)
    refused(write_folder(tmp_path / "hf"), tmp_path / "out", "differs")

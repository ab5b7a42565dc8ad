"""Altered folders: each is imported exactly, or refused by name with nothing written."""

import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from fairtale.compat import read_checkpoint
from fairtale.data.corpus.tokenizer_dictionary import read_dictionary
from fairtale.errors import UserError
from tests.gpt2_helpers import (
    END,
    assert_equal_tensors,
    change_json,
    random_tensors,
    run_import,
    tensors_of,
    train_byte_level,
    write_folder,
    write_json,
)

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The weights that the plain folder becomes."""
    base = tmp_path_factory.mktemp("reference")
    run_import(write_folder(base / "hf"), base / "out")
    return read_checkpoint(str(base / "out" / "checkpoint.pt"))["model"]


def imported(folder, output, **ids):
    """Import, and return the checkpoint, the dictionary and what was said."""
    said = run_import(folder, output, **ids)
    assert {p.name for p in output.iterdir()} == {"checkpoint.pt", "dict.txt", "tokenizer.json"}
    state = read_checkpoint(str(output / "checkpoint.pt"))
    return state, read_dictionary(str(output / "dict.txt")), said


def test_names_and_orientation(tmp_path):
    folder = write_folder(tmp_path / "hf")
    state, dictionary, said = imported(folder, tmp_path / "out")
    theirs, ours = tensors_of(folder), state["model"]
    v, wte = 281, theirs["transformer.wte.weight"]
    assert torch.equal(ours["transformer.embed_tokens.weight"][:v], wte)
    assert not ours["transformer.embed_tokens.weight"][v:].any() and len(dictionary) == v + 2
    for ours_name, theirs_name in {
        "self_attn.qkv_proj": "attn.c_attn",
        "self_attn.out_proj": "attn.c_proj",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
    }.items():
        weight = theirs[f"transformer.h.1.{theirs_name}.weight"]
        assert torch.equal(ours[f"transformer.layers.1.{ours_name}.weight"], weight.t())
    assert torch.equal(
        ours["transformer.layers.0.final_layer_norm.bias"], theirs["transformer.h.0.ln_2.bias"]
    )
    assert len(ours) == len(theirs)
    assert dictionary[280] == END and dictionary.bos() == dictionary.eos() == 280
    assert (dictionary.pad(), dictionary.unk(), dictionary.num_predicted) == (281, 282, 281)
    assert state["task_state"]["tokens_per_sample"] == 32
    assert state["cfg"]["task"]["_name"] == "story_lm"
    assert state["cfg"]["task"]["data"] == str(tmp_path / "out")
    assert "not compared, because transformers is not installed" in said


# ------------------------------------------------------------------- what is imported exactly


def rewrite(folder, tensors, name=WEIGHTS):
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / name) if name == WEIGHTS else torch.save(tensors, folder / name)


def old_names(tensors):
    """Names without prefix, and the buffers of old folders."""
    old = {n.removeprefix("transformer."): t for n, t in tensors.items()}
    for i in range(2):
        old[f"h.{i}.attn.bias"] = torch.ones(32, 32, dtype=torch.uint8).tril()[None, None]
        old[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return old


def as_old_pickle(folder):
    rewrite(folder, old_names(tensors_of(folder)), "pytorch_model.bin")


def as_old_pickle_of_torch_1_5(folder):
    tensors = old_names(tensors_of(folder))
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def as_shards(folder, ending="safetensors", stem="model"):
    tensors = tensors_of(folder)
    (folder / WEIGHTS).unlink()
    index = {n: f"{stem}-0000{1 + i % 3}-of-00003.{ending}" for i, n in enumerate(sorted(tensors))}
    for file in set(index.values()):
        part = {n: tensors[n] for n in tensors if index[n] == file}
        save_file(part, folder / file) if stem == "model" else torch.save(part, folder / file)
    name = WEIGHTS if stem == "model" else "pytorch_model.bin"
    write_json(folder / f"{name}.index.json", {"metadata": {}, "weight_map": index})


def as_old_shards(folder):
    as_shards(folder, "bin", "pytorch_model")


def with_copy_of_the_embedding_as_head(folder):
    tensors = tensors_of(folder)
    rewrite(folder, {**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()})


def with_other_names_of_settings(folder):
    change_json(
        folder / "config.json",
        remove=["n_embd", "n_layer", "n_head", "n_positions"],
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )


def without_an_architecture(folder):
    change_json(folder / "config.json", remove=["architectures"])


def with_an_older_pickle_beside_it(folder):
    torch.save({"wte.weight": torch.zeros(1)}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    "alter",
    [
        as_old_pickle,
        as_old_pickle_of_torch_1_5,
        as_shards,
        as_old_shards,
        with_copy_of_the_embedding_as_head,
        with_other_names_of_settings,
        without_an_architecture,
        with_an_older_pickle_beside_it,
    ],
)
def test_other_forms_of_the_same_model(alter, reference, tmp_path):
    folder = write_folder(tmp_path / "hf")
    alter(folder)
    state, _, _ = imported(folder, tmp_path / "out")
    assert_equal_tensors(state["model"], reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_to_the_bit(dtype, reference, tmp_path):
    folder = write_folder(tmp_path / "hf")
    rewrite(folder, {n: t.to(dtype) for n, t in tensors_of(folder).items()})
    state, _, said = imported(folder, tmp_path / "out")
    assert_equal_tensors(state["model"], {n: t.to(dtype).float() for n, t in reference.items()})
    assert f"weights in {str(dtype)[6:]}: stored in float32, without any loss" in said


def test_untied_output(tmp_path):
    folder = write_folder(tmp_path / "hf", tie_word_embeddings=False)
    state, _, said = imported(folder, tmp_path / "out")
    head = state["model"]["transformer.output_projection.weight"]
    assert torch.equal(head, tensors_of(folder)["lm_head.weight"])
    assert state["cfg"]["model"]["untied_output"] is True and "an output matrix of" in said


def test_settings_reach_the_checkpoint(tmp_path):
    folder = write_folder(
        tmp_path / "hf",
        more_entries=7,
        n_inner=24,
        activation_function="silu",
        layer_norm_epsilon=2e-6,
        resid_pdrop=0.3,
        attn_pdrop=0.2,
        embd_pdrop=0.1,
        reorder_and_upcast_attn=True,
        rotary_dim=4,
    )
    state, dictionary, said = imported(folder, tmp_path / "out")
    model = state["cfg"]["model"]
    assert (model["decoder_ffn_embed_dim"], model["activation_fn"]) == (24, "swish")
    assert (model["layer_norm_eps"], model["max_target_positions"]) == (2e-6, 32)
    assert (model["dropout"], model["attention_dropout"]) == (0.3, 0.2)
    assert dictionary.symbols[281:288] == [f"madeupword0{i}" for i in range(281, 288)]
    assert dictionary.num_predicted == 288
    for remark in (
        "7 entries of the embedding have no token",
        "embd_pdrop 0.1 differs",
        "reorder_and_upcast_attn",
        "not read in config.json, as in transformers: rotary_dim",
    ):
        assert remark in said


def test_two_files_of_a_tokenizer(tmp_path):
    folder = write_folder(tmp_path / "hf")
    expected = run_import(folder, tmp_path / "json")
    assert expected
    train_byte_level().model.save(str(folder))
    (folder / "tokenizer.json").unlink()
    write_json(folder / "added_tokens.json", {END: 280})
    run_import(folder, tmp_path / "two")
    texts = [(tmp_path / name / "dict.txt").read_text() for name in ("json", "two")]
    assert texts[0] == texts[1]


def test_special_tokens_of_a_tokenizer_trained_here(tmp_path):
    tokenizer = train_byte_level(first=("<s>", "<pad>", "</s>", "<unk>"), last=())
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    folder = write_folder(tmp_path / "hf", tokenizer=tokenizer, **ids)
    write_json(folder / "tokenizer_config.json", {"unk_token": "<unk>", "eos_token": "</s>"})
    _, dictionary, _ = imported(folder, tmp_path / "out")
    roles = (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk())
    assert roles == (0, 1, 2, 3) and dictionary.num_predicted == len(dictionary)


def test_padding_with_the_end_symbol_gets_an_entry_of_its_own(tmp_path):
    folder = write_folder(tmp_path / "hf", pad_token_id=280)
    _, dictionary, _ = imported(folder, tmp_path / "out")
    assert (dictionary.eos(), dictionary.pad()) == (280, 281)


# --------------------------------------------------------------------------- what is refused


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
        ({"eos_token_id": [5, 280]}, ["[5, 280] is not the id of one token"]),
        ({"eos_token_id": None, "bos_token_id": None}, ["--eos-token-id", END]),
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
    _, dictionary, _ = imported(folder, tmp_path / "out", bos=3, eos=280)
    assert (dictionary.bos(), dictionary.eos()) == (3, 280)


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
    imported(folder, tmp_path / "out")  # an empty folder is used


def test_a_failing_check_leaves_nothing(tmp_path, monkeypatch):
    from fairtale.interop import gpt2_import

    def fails(*args):
        raise UserError("differs")

    monkeypatch.setattr(gpt2_import, "can_compare", lambda: True)
    monkeypatch.setattr(gpt2_import, "compare_logits", fails)
    folder = write_folder(tmp_path / "hf", random_tensors({**dict(vocab_size=281), **_config()}))
    refused(folder, tmp_path / "out", "differs")


def _config():
    return {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}

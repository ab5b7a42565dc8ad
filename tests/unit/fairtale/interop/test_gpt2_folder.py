"""Folders of one model in different forms, all of which are imported exactly."""

import pytest
import torch

from fairtale.compat import read_checkpoint
from fairtale.data.corpus.tokenizer_dictionary import read_dictionary
from tests.gpt2_helpers import (
    END,
    WEIGHTS,
    as_shards,
    assert_equal_tensors,
    change_json,
    rewrite,
    run_import,
    tensors_of,
    train_byte_level,
    write_folder,
    write_json,
)


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

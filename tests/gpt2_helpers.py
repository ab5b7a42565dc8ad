"""Hugging Face folders of tiny GPT-2 models, written without transformers."""

import json

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from fairtale.interop.gpt2_export import export_gpt2
from fairtale.interop.gpt2_import import import_gpt2

END = "<|endoftext|>"
TEXT = ["Once upon a time there was a hen.", "A hen, a hen; 12 hens!", "Жила-была курица, и она"]
CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_positions": 32,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
}


def train_byte_level(num_merges=24, first=(), last=(END,)):
    """Return a ``tokenizers.Tokenizer`` with special tokens before and behind its pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(first) + num_merges,
        special_tokens=list(first),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in last])
    return tokenizer


def random_tensors(config, seed=0):
    """Return random tensors of a GPT-2, by the names that transformers gives them."""
    c, f = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    shapes = {"wte.weight": (config["vocab_size"], c), "wpe.weight": (config["n_positions"], c)}
    for i in range(config["n_layer"]):
        for name, shape in {
            "ln_1": (c,),
            "attn.c_attn": (c, 3 * c),
            "attn.c_proj": (c, c),
            "ln_2": (c,),
            "mlp.c_fc": (c, f),
            "mlp.c_proj": (f, c),
        }.items():
            shapes[f"h.{i}.{name}.weight"] = shape
            shapes[f"h.{i}.{name}.bias"] = shape[-1:]
    shapes |= {"ln_f.weight": (c,), "ln_f.bias": (c,)}
    tensors = {f"transformer.{name}": shape for name, shape in shapes.items()}
    if not config.get("tie_word_embeddings", True):
        tensors["lm_head.weight"] = shapes["wte.weight"]
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * 0.4 for n, s in tensors.items()}


def write_folder(path, tensors=None, tokenizer=None, more_entries=0, **changes):
    """Write a folder with random weights, and return its path.

    Args:
        path: the folder.
        tensors: weights; None for random ones.
        tokenizer: None for a tiny one with ``END``.
        more_entries: number of entries of the embedding without a token.
        changes: settings of ``config.json`` that differ from ``CONFIG``.
    """
    tokenizer = tokenizer or train_byte_level()
    size = tokenizer.get_vocab_size()
    end = tokenizer.token_to_id(END)
    config = {**CONFIG, "vocab_size": size + more_entries, **changes}
    if end is not None:
        config = {"bos_token_id": end, "eos_token_id": end, **config}
    path.mkdir()
    write_json(path / "config.json", config)
    tokenizer.save(str(path / "tokenizer.json"))
    save_file(random_tensors(config) if tensors is None else tensors, path / "model.safetensors")
    return path


def write_json(path, content):
    """Write a JSON file."""
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def change_json(path, remove=(), **changes):
    """Change entries of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in remove:
        del content[name]
    write_json(path, {**content, **changes})


def tensors_of(folder):
    """Return all tensors of a folder's safetensors."""
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def run_import(folder, output, **ids):
    """Import a folder, and return what is said."""
    return "\n".join(import_gpt2(str(folder), str(output), ids))


def run_export(checkpoint, output, data=None, dtype="float32", max_shard_bytes=5 * 10**9):
    """Export a checkpoint, and return what is said."""
    data = None if data is None else str(data)
    return "\n".join(export_gpt2(str(checkpoint), str(output), data, dtype, max_shard_bytes))


def assert_equal_tensors(found, expected):
    """Check that names, dtypes and all bits are equal."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name

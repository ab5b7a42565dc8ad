"""Make the model of ``serve_speed.py``: random weights with a real tokenizer, and its prompts."""

import argparse
import json
import math
import random
from pathlib import Path
from typing import NamedTuple

import common
import torch

END = "<|endoftext|>"
# The logits of an untrained model are almost equal. Scaling them makes the largest one unambiguous.
SHARPNESS = 6.0


class Model(NamedTuple):
    """One model in the forms that the entrants read."""

    checkpoint: str
    ctranslate2: str
    hugging_face: str
    prompts: list[str]


def make_model(args: argparse.Namespace, folder: Path) -> Model:
    """Write random weights with a real tokenizer in all forms, and draw prompts."""
    from fairtale.interop.ctranslate2_export import export_ctranslate2
    from fairtale.interop.gpt2_export import export_gpt2
    from fairtale.interop.gpt2_import import import_gpt2

    text = "\n".join(path.read_text() for path in sorted((common.ROOT / "docs").glob("*.md")))
    tokenizer = train_tokenizer(text, args.vocab)
    write_gpt2(args, tokenizer, folder / "made")
    checkpoint, ct2, hf = folder / "model" / "checkpoint.pt", folder / "ct2", folder / "hf"
    list(import_gpt2(str(folder / "made"), str(folder / "model"), {}))
    list(export_gpt2(str(checkpoint), str(hf), None, "float32", 5 * 10**9))
    if "ctranslate2" in args.peers:
        list(export_ctranslate2(str(checkpoint), str(ct2), None, None))
    return Model(str(checkpoint), str(ct2), str(hf), draw_prompts(args, tokenizer, text))


def train_tokenizer(text: str, size: int):
    """Return a byte-level BPE of `tokenizers`, learned from a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def write_gpt2(args: argparse.Namespace, tokenizer, folder: Path) -> None:
    """Write a GPT-2 with random weights as Hugging Face's library does."""
    from safetensors.torch import save_file

    end, vocab = tokenizer.token_to_id(END), tokenizer.get_vocab_size()
    width, generator = args.width, torch.Generator().manual_seed(args.seed)
    tensors = {
        "wte.weight": torch.randn(vocab, width, generator=generator) * 0.1,
        "wpe.weight": torch.randn(args.positions, width, generator=generator) * 0.1,
        "ln_f.weight": torch.full((width,), SHARPNESS),
        "ln_f.bias": torch.zeros(width),
    }
    tensors["wte.weight"][end] = 0  # improbable, so that all texts have the same length
    parts = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
    for number in range(args.layers):
        for name in ("ln_1", "ln_2"):
            tensors[f"h.{number}.{name}.weight"] = torch.ones(width)
            tensors[f"h.{number}.{name}.bias"] = torch.zeros(width)
        for name, (rows, columns) in parts.items():
            weight = torch.randn(rows * width, columns * width, generator=generator)
            tensors[f"h.{number}.{name}.weight"] = weight / math.sqrt(rows * width)
            tensors[f"h.{number}.{name}.bias"] = torch.zeros(columns * width)
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": args.positions,
        "n_embd": width,
        "n_layer": args.layers,
        "n_head": args.heads,
        "vocab_size": vocab,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "model.safetensors")


def draw_prompts(args: argparse.Namespace, tokenizer, text: str) -> list[str]:
    """Return a prompt for every request of the most clients, with evenly spread lengths."""
    count = max(args.clients) * args.requests
    draw = random.Random(args.seed)
    ids = tokenizer.encode(text).ids
    lengths = torch.linspace(args.shortest, args.longest, count).round().int().tolist()
    draw.shuffle(lengths)
    starts = [draw.randrange(len(ids) - args.longest) for _ in lengths]
    return [tokenizer.decode(ids[start : start + n]) for start, n in zip(starts, lengths)]

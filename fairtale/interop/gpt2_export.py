"""Write a checkpoint of ``gpt`` as a Hugging Face folder of a GPT-2 model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..data.corpus.byte_level_files import ADDED, MERGES, VOCABULARY
from ..data.corpus.whole_folder import new_folder, refuse_existing
from ..errors import UserError
from ..plugin import register
from .gpt2_checkpoint import GPT2Checkpoint, read_gpt2_checkpoint
from .gpt2_config import CONFIG, GENERATION_CONFIG, config_of_shape, read_json_object, write_json
from .gpt2_folder import read_gpt2_folder
from .gpt2_import import TOKENIZER
from .gpt2_names import full_name
from .gpt2_roles import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from .logits_check import NOT_CHECKED, can_compare, compare_logits, load_model
from .tensor_files import WEIGHTS, WEIGHTS_INDEX, library

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export_gpt2(
    path: str, output: str, data: str | None, dtype: str, max_shard_bytes: int
) -> Iterator[str]:
    """Write a folder for transformers, and yield what there is to say, line by line.

    The output appears as a whole at the end, after it was read again and its logits were compared.

    Args:
        path: checkpoint of ``gpt``.
        output: the folder to make.
        data: folder with its dictionary and tokenizer; None to look for it.
        dtype: a key of :data:`DTYPES`, for all weights.
        max_shard_bytes: maximum size of a file with weights; a larger tensor has its own file.

    Raises:
        UserError: the checkpoint cannot be exported exactly, or the output exists.
    """
    refuse_existing(output)
    register()
    checkpoint = read_gpt2_checkpoint(path, data)
    with new_folder(output) as made:
        _write_settings(checkpoint, made, dtype)
        num_files = _write_weights(checkpoint, made, dtype, max_shard_bytes)
        _write_tokenizer(checkpoint, made)
        read_gpt2_folder(made)
        if can_compare():
            model: Any = load_model(path, checkpoint.data)
            size, exact = checkpoint.shape.vocab_size, dtype == "float32"
            check = compare_logits(model, made, size, exact)
            yield str(check) + ("" if exact else f", which includes rounding to {dtype}")
        else:
            yield NOT_CHECKED
    yield f"wrote {output}: {num_files} file{'s' * (num_files > 1)} with weights in {dtype}"


# ----------------------------------------------------------------------------- weights


def _write_weights(checkpoint: GPT2Checkpoint, folder: str, dtype: str, max_bytes: int) -> int:
    """Write the weights, and an index if there are several files; return their number."""
    save = library().torch.save_file
    kind = DTYPES[dtype]
    shards = _shards(checkpoint, kind.itemsize, max_bytes)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = WEIGHTS if len(shards) == 1 else file
        tensors = {
            full_name(entry.theirs): _converted(tensor, kind, entry.ours)
            for entry, tensor in checkpoint.tensors()
            if entry.theirs in names
        }
        index.update(dict.fromkeys(tensors, file))
        path = os.path.join(folder, file)
        save(tensors, path, metadata={"format": "pt"})
        # safetensors lets only the owner read it
        shutil.copymode(os.path.join(folder, CONFIG), path)
    if len(shards) > 1:
        count = sum(tensor.numel() for _, tensor in checkpoint.tensors())
        metadata = {"total_parameters": count, "total_size": count * kind.itemsize}
        content = {"metadata": metadata, "weight_map": dict(sorted(index.items()))}
        write_json(folder, WEIGHTS_INDEX, content)
    return len(shards)


def _shards(checkpoint: GPT2Checkpoint, itemsize: int, max_bytes: int) -> list[set[str]]:
    """Distribute the tensors, in their order, to files of at most ``max_bytes``."""
    shards: list[set[str]] = [set()]
    room = max_bytes
    for entry, tensor in checkpoint.tensors():
        size = tensor.numel() * itemsize
        if size > room and shards[-1]:
            shards.append(set())
            room = max_bytes
        shards[-1].add(entry.theirs)
        room -= size
    return shards


def _converted(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    converted = tensor.to(dtype).contiguous()
    if not torch.isfinite(converted).all():
        raise UserError(
            f"--dtype {str(dtype).removeprefix('torch.')}: {name} is too large for it; give "
            "bfloat16 or float32"
        )
    return converted


# --------------------------------------------------------------------- settings, tokenizer


def _write_settings(checkpoint: GPT2Checkpoint, folder: str, dtype: str) -> None:
    config = config_of_shape(checkpoint.shape, checkpoint.ids, dtype)
    write_json(folder, CONFIG, config)
    ids = {f"{role}_token_id": checkpoint.ids.get(role) for role in ("bos", "eos", "pad")}
    ids = {name: index for name, index in ids.items() if index is not None}
    write_json(folder, GENERATION_CONFIG, {"_from_model_config": True, **ids})


def _write_tokenizer(checkpoint: GPT2Checkpoint, folder: str) -> None:
    """Write the tokenizer in today's form and in the older one, and its special tokens."""
    source = os.path.join(checkpoint.data, TOKENIZER)
    shutil.copyfile(source, os.path.join(folder, TOKENIZER))
    model = read_json_object(source)["model"]
    vocabulary: dict[str, int] = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    with open(os.path.join(folder, VOCABULARY), "w", encoding="utf-8") as stream:
        json.dump(vocabulary, stream, ensure_ascii=False)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    with open(os.path.join(folder, MERGES), "w", encoding="utf-8", newline="\n") as stream:
        stream.write("\n".join(["#version: 0.2", *merges, ""]))
    tokenizer = checkpoint.tokenizer
    added = {t: i for t, i in tokenizer.added_tokens.items() if t not in vocabulary}
    if added:
        write_json(folder, ADDED, added)
    special = {f"{role}_token": tokenizer.pieces[index] for role, index in checkpoint.ids.items()}
    write_json(folder, SPECIAL_TOKENS_MAP, special)
    settings = {
        "add_prefix_space": tokenizer.adds_prefix_space,
        "clean_up_tokenization_spaces": False,
        "model_max_length": checkpoint.shape.num_positions,
        # transformers takes tokenizer.json as it is; with GPT2Tokenizer it would make its own
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder, TOKENIZER_CONFIG, {**special, **settings})

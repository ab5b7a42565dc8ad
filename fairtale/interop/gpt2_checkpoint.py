"""Read a checkpoint of ``gpt`` for export, and refuse what a GPT-2 folder cannot hold."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..compat import read_checkpoint
from ..data.corpus.byte_level import ByteLevelBPE
from ..data.corpus.byte_level_files import load_byte_level
from ..data.corpus.tokenizer_dictionary import num_predicted, read_dictionary
from ..data.corpus.vocabulary import fingerprint
from ..errors import UserError
from ..modules.lora_state import is_adapter_key
from .gpt2_config import ACTIVATION_NAMES, GPT2Shape
from .gpt2_import import DICTIONARY, TOKENIZER
from .gpt2_names import EMBEDDING, OUR_PREFIX, TensorName, tensor_names


@dataclass(frozen=True)
class GPT2Checkpoint:
    """A checkpoint that has passed all checks."""

    path: str
    data: str  # folder with its dictionary and tokenizer
    shape: GPT2Shape
    symbols: list[str]  # the V entries that are exported
    ids: dict[str, int]  # special ids by role, without those that are not exported
    tokenizer: ByteLevelBPE
    weights: Mapping[str, Tensor]  # our names; mapped from the file

    def tensors(self) -> Iterator[tuple[TensorName, Tensor]]:
        """Yield the names of tensors, and the tensors in Hugging Face's orientation."""
        for entry in tensor_names(self.shape):
            tensor = self.weights[OUR_PREFIX + entry.ours]
            if entry.theirs == EMBEDDING:
                tensor = tensor[: self.shape.vocab_size]
            yield entry, tensor.t() if entry.transposed else tensor


def read_gpt2_checkpoint(path: str, data: str | None = None) -> GPT2Checkpoint:
    """Read and check a checkpoint, its dictionary, and its tokenizer.

    Args:
        path: the checkpoint.
        data: folder with ``dict.txt`` and ``tokenizer.json``; None for the folder of the
            checkpoint, if it has both, or the one that the model was trained on.

    Raises:
        UserError: the model is not a GPT-2, or its dictionary or tokenizer is missing or of
            another model; or the tokenizer is not byte-level BPE.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; name a checkpoint of gpt")
    state = read_checkpoint(path)
    model, task = (_settings(state, part) for part in ("model", "task"))
    weights = state["model"]
    faults = list(_faults(model, weights))
    if faults:
        raise UserError(f"{path}: cannot be exported as a GPT-2: {'; '.join(faults)}")
    data = _data_folder(path, task, data)
    dictionary = _read_dictionary(data, state.get("task_state") or {}, path)
    tokenizer = load_byte_level(os.path.join(data, TOKENIZER))
    size = num_predicted(dictionary)
    _check_entries(dictionary, tokenizer, size, data)
    try:
        shape = _shape(model, size, weights)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a setting of its model is missing or wrong: {error}") from None
    _check_sizes(shape, len(dictionary), weights, path)
    roles = ("bos", "eos", "pad", "unk")
    ids = {role: int(getattr(dictionary, role)()) for role in roles}
    return GPT2Checkpoint(
        path=path,
        data=data,
        shape=shape,
        symbols=dictionary.symbols[:size],
        ids={role: index for role, index in ids.items() if index < size},
        tokenizer=tokenizer,
        weights=weights,
    )


def _settings(state: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the settings of the model or the task from any form of a checkpoint."""
    found = (state.get("cfg") or {}).get(part) or state.get("args") or {}
    settings = vars(found) if isinstance(found, Namespace) else dict(found)
    settings.setdefault("_name", settings.get("arch" if part == "model" else "task"))
    return settings


def _faults(model: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what a GPT-2 folder cannot hold."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    name = str(model["_name"])
    name = ARCH_MODEL_NAME_REGISTRY.get(name, name)
    if name == "unilm_seq2seq":
        yield "its prefix is read in both directions (unilm_seq2seq)"
        return
    if name != "gpt":
        yield f"its model is {name}, not gpt"
        return
    if OUR_PREFIX + "embed_segments.weight" in weights:
        yield "it has embeddings of segments (dialog_lm)"
    if model.get("decoder_normalize_after"):
        yield "it normalises after each sub-layer (--decoder-normalize-after)"
    activation = model.get("activation_fn", "gelu_accurate")
    if activation not in ACTIVATION_NAMES.values():
        yield f"its activation is {activation}"
    if any(map(is_adapter_key, weights)):
        yield "it has adapters, which fairtale gpt2 merge can merge"


def _data_folder(path: str, task: Mapping[str, Any], data: str | None) -> str:
    """Return the folder with the dictionary and the tokenizer.

    Raises:
        UserError: there is none.
    """
    if data is not None:
        candidates = [data]
    else:
        trained = str(task.get("data") or "").split(os.pathsep)
        candidates = [os.path.dirname(os.path.abspath(path)), *filter(None, trained)]
    for folder in candidates:
        if all(os.path.isfile(os.path.join(folder, name)) for name in (DICTIONARY, TOKENIZER)):
            return folder
    where = f"--data {data}" if data is not None else " and ".join(candidates)
    raise UserError(
        f"{where}: no {DICTIONARY} with a {TOKENIZER} beside it: give --data with the folder that "
        "the model was trained on; only models with a byte-level tokenizer can be exported"
    )


def _read_dictionary(data: str, task_state: Mapping[str, Any], path: str) -> Dictionary:
    name = os.path.join(data, DICTIONARY)
    try:
        dictionary = read_dictionary(name)
    except (ValueError, RuntimeError) as error:  # also for bad UTF-8
        raise UserError(f"{name} is not a dictionary of fairseq: {error}") from error
    known = task_state.get("dictionary")
    if known is not None and known != fingerprint(dictionary):
        raise UserError(
            f"{path} was trained with another dictionary than {name}: give --data with the folder "
            "that it was trained on"
        )
    return dictionary


def _check_entries(dictionary: Dictionary, tokenizer: ByteLevelBPE, size: int, data: str) -> None:
    """Check that indices are the ids of the tokenizer.

    Raises:
        UserError: they are not.
    """
    pieces, symbols = tokenizer.pieces, dictionary.symbols
    if len(pieces) > size:
        raise UserError(
            f"{data}: {TOKENIZER} has {len(pieces)} entries, and {DICTIONARY} has {size}: they do "
            "not belong together"
        )
    for index, symbol in enumerate(symbols[:size]):
        piece = pieces[index] if index < len(pieces) else ""
        if symbol != piece and not symbol.startswith("madeupword"):
            raise UserError(
                f"{data}: entry {index} is {symbol!r} in {DICTIONARY} and {piece!r} in {TOKENIZER}:"
                " they do not belong together"
            )


def _shape(model: Mapping[str, Any], size: int, weights: Mapping[str, Tensor]) -> GPT2Shape:
    dropout = float(model.get("dropout", 0.1))
    positions = weights.get(OUR_PREFIX + "embed_positions.weight")
    return GPT2Shape(
        vocab_size=size,
        num_positions=0 if positions is None else len(positions),
        embed_dim=int(model["decoder_embed_dim"]),
        num_layers=int(model["decoder_layers"]),
        num_heads=int(model["decoder_attention_heads"]),
        ffn_dim=int(model["decoder_ffn_embed_dim"]),
        activation_fn=str(model.get("activation_fn", "gelu_accurate")),
        layer_norm_eps=float(model.get("layer_norm_eps", 1e-5)),
        untied_output=bool(model.get("untied_output", False)),
        dropout=dropout,
        embedding_dropout=dropout,
        attention_dropout=float(model.get("attention_dropout", 0.1)),
    )


def _check_sizes(
    shape: GPT2Shape, num_entries: int, weights: Mapping[str, Tensor], path: str
) -> None:
    """Check the names, shapes and values of the weights.

    Raises:
        UserError: they are not those that the settings and the dictionary need.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for entry in tensor_names(shape):
        size = entry.size[::-1] if entry.transposed else entry.size
        wanted[OUR_PREFIX + entry.ours] = size
    embedding = OUR_PREFIX + next(e.ours for e in tensor_names(shape) if e.theirs == EMBEDDING)
    wanted[embedding] = (num_entries, shape.embed_dim)
    sizes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if sizes != wanted:
        odd = min(n for n in sizes.keys() | wanted.keys() if sizes.get(n) != wanted.get(n))
        raise UserError(
            f"{path}: {odd} has the shape {sizes.get(odd, 'of no tensor')}, and "
            f"{wanted.get(odd, 'none')} is expected: not a checkpoint of gpt with this dictionary"
        )
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} has infinite values or no numbers")

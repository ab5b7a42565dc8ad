"""Import a Hugging Face folder of a GPT-2 model as a data folder with a checkpoint of ``gpt``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..data.corpus.tokenizer_dictionary import TokenizerDictionary
from ..data.corpus.whole_folder import new_folder, refuse_existing
from ..errors import UserError
from .gpt2_folder import GPT2Folder, read_gpt2_folder
from .gpt2_names import EMBEDDING, OUR_PREFIX, tensor_names
from .logits_check import NOT_CHECKED, can_compare, compare_logits, load_model
from .new_checkpoint import new_checkpoint

CHECKPOINT, DICTIONARY, TOKENIZER = "checkpoint.pt", "dict.txt", "tokenizer.json"


def import_gpt2(path: str, output: str, given_ids: Mapping[str, int]) -> Iterator[str]:
    """Import a folder, and yield what there is to say, line by line.

    The output appears as a whole at the end, after the check of the logits.

    Args:
        path: a Hugging Face folder.
        output: the folder to make: ``checkpoint.pt``, ``dict.txt`` and ``tokenizer.json``.
        given_ids: ids of special tokens by role that count instead of those in the folder's files.

    Raises:
        UserError: the folder cannot be imported exactly, or the output exists.
    """
    refuse_existing(output)
    folder = read_gpt2_folder(path, given_ids)
    dictionary = dictionary_of(folder)
    yield from describe(folder)
    with new_folder(output) as made:
        dictionary.save(os.path.join(made, DICTIONARY))
        with open(os.path.join(made, TOKENIZER), "w", encoding="utf-8", newline="\n") as stream:
            stream.write(folder.tokenizer.to_json())
        checkpoint = os.path.join(made, CHECKPOINT)
        weights = dict(padded_weights(folder, len(dictionary)))
        state = new_checkpoint(folder.shape, weights, made, os.path.abspath(output))
        torch.save(state, checkpoint)
        del weights, state
        model: Any = load_model(checkpoint, made)
        if can_compare():
            yield str(compare_logits(model, path, folder.shape.vocab_size))
        else:
            yield NOT_CHECKED
    yield f"wrote {output}: {CHECKPOINT}, {DICTIONARY} and {TOKENIZER}"


def dictionary_of(folder: GPT2Folder) -> TokenizerDictionary:
    """Return fairseq's dictionary, whose indices are the ids of the folder's tokenizer.

    Raises:
        UserError: an entry cannot be in a dictionary.
    """
    try:
        return TokenizerDictionary.with_roles(folder.symbols(), folder.ids)
    except ValueError as error:
        raise UserError(f"{folder.path}: the tokenizer cannot be a dictionary: {error}") from None


def padded_weights(folder: GPT2Folder, num_entries: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights under our names, with zeros for entries that the model lacks.

    Args:
        folder: a checked folder.
        num_entries: size of the dictionary, at least V.
    """
    embedding = next(e.ours for e in tensor_names(folder.shape) if e.theirs == EMBEDDING)
    for name, tensor in folder.weights():
        if name == OUR_PREFIX + embedding:
            more = num_entries - tensor.size(0)
            tensor = torch.cat([tensor, tensor.new_zeros(more, tensor.size(1))])
        yield name, tensor


def describe(folder: GPT2Folder) -> Iterator[str]:
    """Yield what a person may want to know of a checked folder, line by line."""
    shape = folder.shape
    head = "an output matrix of its own" if shape.untied_output else "tied output"
    yield (
        f"{folder.path}: {shape.num_layers} layers of {shape.embed_dim}, {shape.num_heads} heads, "
        f"{shape.num_positions:,} positions, {shape.vocab_size:,} entries, {head}"
    )
    pieces = folder.symbols()
    roles = [f"{role} {pieces[index]} ({index})" for role, index in folder.ids.items()]
    yield f"special tokens: {', '.join(roles)}"
    yield from folder.remarks

"""Read a Hugging Face folder of a GPT-2 model, and check all of it before the weights are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.corpus.byte_level import ByteLevelBPE
from ..data.corpus.byte_level_files import load_byte_level
from ..errors import UserError
from .gpt2_config import CONFIG, GPT2Shape, read_json_object, shape_of_config, unread_settings
from .gpt2_names import EMBEDDING, OUR_PREFIX, FoundNames, find_names, full_name, tensor_names
from .gpt2_roles import special_ids
from .tensor_files import FLOATS, TensorFiles


@dataclass(frozen=True)
class GPT2Folder:
    """A folder that has passed all checks which need no weights."""

    path: str
    shape: GPT2Shape
    tokenizer: ByteLevelBPE
    ids: dict[str, int]  # special ids by role
    files: TensorFiles
    names: FoundNames
    remarks: list[str]  # what a person may want to know

    def symbols(self) -> list[str]:
        """Return the V entries of the dictionary; those without a token have names of fairseq's."""
        pieces = self.tokenizer.pieces
        more = range(len(pieces), self.shape.vocab_size)
        return [*pieces, *(f"madeupword{index:04d}" for index in more)]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Read the weights; yield our names and fp32 tensors in our orientation.

        Raises:
            UserError: a weight is not finite, or a tensor of an old folder contradicts the model.
        """
        self._check_tied_head()
        self._check_masks()
        for entry in tensor_names(self.shape):
            stored = self.files.load(self.names.tensors[entry.theirs])
            if not torch.isfinite(stored).all():
                raise UserError(f"{self.path}: {entry.theirs} has infinite values or no numbers")
            tensor = stored.t() if entry.transposed else stored
            yield OUR_PREFIX + entry.ours, tensor.to(torch.float32, copy=True).contiguous()

    def _check_tied_head(self) -> None:
        head = self.names.tied_head
        if head is None:
            return
        embedding = self.files.load(self.names.tensors[EMBEDDING])
        if not torch.equal(self.files.load(head), embedding):
            raise UserError(
                f"{self.path}: {head} differs from {self.names.tensors[EMBEDDING]}, although "
                "tie_word_embeddings is true (transformers would ignore the head): set "
                "tie_word_embeddings to false if the head is one of its own, or remove the head"
            )

    def _check_masks(self) -> None:
        """Check that the masks of old folders are causal; today's have none."""
        size = self.shape.num_positions
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        for name in self.names.masks:
            if not torch.equal(self.files.load(name)[0, 0].bool(), causal):
                raise UserError(f"{self.path}: the mask {name} is not causal")


def read_gpt2_folder(path: str, given_ids: Mapping[str, int] | None = None) -> GPT2Folder:
    """Read and check a folder: settings, tokenizer, names and shapes of the weights.

    Args:
        path: the folder.
        given_ids: ids of special tokens by role that count instead of those in the files.

    Raises:
        UserError: something is missing, unknown or contradictory.
    """
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such folder; give a folder with a {CONFIG}")
    config_path = os.path.join(path, CONFIG)
    config = read_json_object(config_path)
    shape = shape_of_config(config, config_path)
    tokenizer = _tokenizer(path, shape.vocab_size)
    ids = special_ids(path, tokenizer, shape.vocab_size, given_ids or {})
    files = TensorFiles(path)
    sizes = {name: tensor.size for name, tensor in files.tensors.items()}
    names = find_names(sizes, shape, path)
    dtypes = {files.tensors[name].dtype for name in names.tensors.values()}
    if not dtypes <= set(FLOATS):
        raise UserError(f"{path}: weights are {', '.join(sorted(map(str, dtypes)))}, not floats")
    folder = GPT2Folder(path, shape, tokenizer, ids, files, names, [])
    folder.remarks.extend(_remarks(folder, dtypes, unread_settings(config), config))
    return folder


def _tokenizer(path: str, vocab_size: int) -> ByteLevelBPE:
    tokenizer = load_byte_level(path)
    outside = {t: i for t, i in tokenizer.added_tokens.items() if i >= vocab_size}
    if outside:
        shown = ", ".join(f"{token} ({index})" for token, index in list(outside.items())[:5])
        raise UserError(
            f"{path}: special tokens are outside of the embedding of {vocab_size} entries, so that "
            f"the model has never seen them: {shown}: remove them from the tokenizer's files"
        )
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {len(tokenizer)} entries, more than the embedding's "
            f"{vocab_size}: it belongs to another model"
        )
    return tokenizer


def _remarks(
    folder: GPT2Folder, dtypes: set[torch.dtype], unread: list[str], config: Mapping[str, object]
) -> Iterator[str]:
    shape = folder.shape
    halves = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes - {torch.float32})
    if halves:
        yield f"weights in {' and '.join(halves)}: stored in float32, without any loss"
    without = sum(s.startswith("madeupword") for s in folder.symbols())
    if without:
        yield f"{without} entries of the embedding have no token; they are kept"
    if shape.embedding_dropout != shape.dropout:
        yield (
            f"embd_pdrop {shape.embedding_dropout} differs from resid_pdrop {shape.dropout}: gpt "
            f"has one rate for both, --dropout {shape.dropout}"
        )
    if config.get("reorder_and_upcast_attn"):
        yield "reorder_and_upcast_attn: not imported; it changes the rounding of fp16 only"
    if unread:
        yield f"not read in {CONFIG}, as in transformers: {', '.join(unread)}"


def names_in_folder(shape: GPT2Shape) -> dict[str, str]:
    """Return the names of tensors in a folder of today, by our names."""
    return {OUR_PREFIX + entry.ours: full_name(entry.theirs) for entry in tensor_names(shape)}

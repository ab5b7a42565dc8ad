"""The names and shapes of GPT-2's tensors in Hugging Face's folders, and ours for each of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ..errors import UserError
from .gpt2_config import GPT2Shape

Size = tuple[int, ...]
EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
PREFIX = "transformer."  # of all names but the head's; old folders lack it
OUR_PREFIX = "transformer."
_NAMED = 5  # number of names in an error message


class TensorName(NamedTuple):
    """A tensor in both worlds."""

    theirs: str  # without PREFIX
    ours: str  # without OUR_PREFIX
    size: Size  # theirs
    transposed: bool  # theirs is a Conv1D's weight [in, out], and ours a linear layer's [out, in]


def tensor_names(shape: GPT2Shape) -> Iterator[TensorName]:
    """Yield all tensors of a model."""
    c, f = shape.embed_dim, shape.ffn_dim
    yield TensorName(EMBEDDING, "embed_tokens.weight", (shape.vocab_size, c), False)
    yield TensorName("wpe.weight", "embed_positions.weight", (shape.num_positions, c), False)
    for i in range(shape.num_layers):
        theirs, ours = f"h.{i}.", f"layers.{i}."
        yield from _norm(f"{theirs}ln_1", f"{ours}self_attn_layer_norm", c)
        yield from _linear(f"{theirs}attn.c_attn", f"{ours}self_attn.qkv_proj", c, 3 * c)
        yield from _linear(f"{theirs}attn.c_proj", f"{ours}self_attn.out_proj", c, c)
        yield from _norm(f"{theirs}ln_2", f"{ours}final_layer_norm", c)
        yield from _linear(f"{theirs}mlp.c_fc", f"{ours}fc1", c, f)
        yield from _linear(f"{theirs}mlp.c_proj", f"{ours}fc2", f, c)
    yield from _norm("ln_f", "layer_norm", c)
    if shape.untied_output:
        yield TensorName(HEAD, "output_projection.weight", (shape.vocab_size, c), False)


def _norm(theirs: str, ours: str, width: int) -> Iterator[TensorName]:
    for part in ("weight", "bias"):
        yield TensorName(f"{theirs}.{part}", f"{ours}.{part}", (width,), False)


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> Iterator[TensorName]:
    yield TensorName(f"{theirs}.weight", f"{ours}.weight", (inputs, outputs), True)
    yield TensorName(f"{theirs}.bias", f"{ours}.bias", (outputs,), False)


def full_name(name: str) -> str:
    """Return the name of a tensor in today's folders."""
    return name if name == HEAD else PREFIX + name


class FoundNames(NamedTuple):
    """The names that a folder gives to its tensors."""

    tensors: dict[str, str]  # :attr:`TensorName.theirs` -> the name in the folder
    masks: list[str]  # buffers [1, 1, P, P] of old folders, True (1) where a token attends
    tied_head: str | None  # a copy of the embedding, to be compared with it


def find_names(sizes: Mapping[str, Size], shape: GPT2Shape, path: str) -> FoundNames:
    """Assign a folder's tensors to the names of :func:`tensor_names`.

    Args:
        sizes: shapes of the tensors by their names in the folder.
        shape: shape of the model, from its ``config.json``.
        path: the folder, for error messages.

    Raises:
        UserError: a tensor is missing, is not known, or has another shape. The message names the
            first few of each.
    """
    if shape.num_layers > len(sizes):  # before names of billions of layers fill the memory
        raise UserError(
            f"{path}: config.json says {shape.num_layers:,} layers, but the files have only "
            f"{len(sizes):,} tensors: not the config.json of these weights"
        )
    inner = [name for name in sizes if name != HEAD]
    prefix = PREFIX if any(name.startswith(PREFIX) for name in inner) else ""
    names = {name.removeprefix(prefix): name for name in inner if name.startswith(prefix)}
    if HEAD in sizes:
        names[HEAD] = HEAD
    wanted = {entry.theirs: entry.size for entry in tensor_names(shape)}
    if HEAD in wanted and HEAD not in names:
        raise UserError(
            f"{path}: tie_word_embeddings is false, but {HEAD} is missing (transformers would "
            "invent one): copy the folder again, or set tie_word_embeddings to true if the head is "
            "the embedding"
        )
    masks = _buffers(shape, "bias", (1, 1, shape.num_positions, shape.num_positions))
    optional = {**masks, **_buffers(shape, "masked_bias", ()), HEAD: wanted[EMBEDDING]}
    known = {**optional, **wanted}
    strange = [name for name in sizes if name.removeprefix(prefix) not in known]
    strange += [name for name in inner if not name.startswith(prefix) and name not in strange]
    faults = [
        _some("missing", [n if n == HEAD else prefix + n for n in wanted if n not in names]),
        _some("not of a GPT-2", strange),
        _some(
            "of another shape than config.json says",
            [
                f"{names[name]} {list(sizes[names[name]])} instead of {list(size)}"
                for name, size in known.items()
                if name in names and tuple(sizes[names[name]]) != size
            ],
        ),
    ]
    if any(faults):
        raise UserError(f"{path}: tensors are {'; '.join(filter(None, faults))}")
    return FoundNames(
        {name: names[name] for name in wanted},
        [names[name] for name in masks if name in names],
        None if HEAD in wanted else names.get(HEAD),
    )


def _buffers(shape: GPT2Shape, name: str, size: Size) -> dict[str, Size]:
    return {f"h.{i}.attn.{name}": size for i in range(shape.num_layers)}


def _some(what: str, names: Collection[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(list(names)[:_NAMED])
    return f"{what}: {shown}" + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

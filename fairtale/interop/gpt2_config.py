"""Read and write the ``config.json`` of a GPT-2 folder; refuse what ``gpt`` does not compute."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"

# Hugging Face's names of activations -> ours (and fairseq's). Names in one line of a family are
# the same function; they differ in rounding only. The first name of ours is written.
ACTIVATION_NAMES = {
    "gelu_new": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
    "gelu_fast": "gelu_accurate",
    "gelu_accurate": "gelu_accurate",
    "gelu_python_tanh": "gelu_accurate",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "swish",
    "swish": "swish",
    "tanh": "tanh",
    "quick_gelu": "quick_gelu",
}

# Hugging Face's defaults: a config.json may leave out what does not differ from them.
_SIZES = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
_RATES = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
_OTHER_NAMES = {  # Hugging Face accepts both names
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "n_ctx": "n_positions",  # of the first versions
}
# What changes the computation in a way that gpt does not have: name -> the only accepted value.
_FIXED: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "quantization_config": None,
    "auto_map": None,  # code of its own
    "pruned_heads": {},
}
_ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model")
# Settings without an influence on logits.
_WITHOUT_EFFECT = frozenset(
    "activation_function architectures bos_token_id dtype eos_token_id gradient_checkpointing "
    "id2label initializer_range is_decoder label2id layer_norm_epsilon model_type n_inner "
    "output_attentions output_hidden_states output_past pad_token_id problem_type "
    "reorder_and_upcast_attn return_dict summary_activation summary_first_dropout "
    "summary_proj_to_labels summary_type summary_use_proj task_specific_params "
    "tie_word_embeddings torch_dtype transformers_version use_cache _name_or_path "
    "_num_labels".split()
)


@dataclass(frozen=True)
class GPT2Shape:
    """Sizes of a GPT-2 model, and all else of its ``config.json`` that has an effect."""

    vocab_size: int  # V
    num_positions: int  # P
    embed_dim: int  # C
    num_layers: int  # L
    num_heads: int  # H
    ffn_dim: int  # F
    activation_fn: str = "gelu_accurate"  # our name
    layer_norm_eps: float = 1e-5
    untied_output: bool = False
    dropout: float = 0.1  # on the output of each sub-layer
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1


def read_json_object(path: str) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # also for bad UTF-8
        raise UserError(f"{path}: not valid JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object")
    return found


def shape_of_config(config: Mapping[str, Any], path: str) -> GPT2Shape:
    """Return the shape that a ``config.json`` describes.

    Args:
        config: content of the file.
        path: path of the file, for error messages.

    Raises:
        UserError: the model is not a GPT-2, or has settings that ``gpt`` does not have; the
            message lists all of them.
    """
    kind, names = config.get("model_type"), config.get("architectures") or []
    known = isinstance(names, list) and all(name in _ARCHITECTURES for name in names)
    if kind != "gpt2" and not (kind is None and names and known):
        raise UserError(f"{path}: model_type is {kind!r}; only gpt2 can be imported")
    faults = [*_architecture_faults(names), *_fixed_faults(config)]
    values: dict[str, Any] = {**_SIZES, **_RATES, "n_inner": None, "layer_norm_epsilon": 1e-5}
    values.update(activation_function="gelu_new", tie_word_embeddings=True)
    values.update((name, config[name]) for name in values if name in config)
    for other, name in _OTHER_NAMES.items():
        if config.get(other) is None:
            continue
        if name in config and config[name] != config[other]:
            faults.append(f"{name} is {config[name]} and {other} {config[other]}")
        values[name] = config[other]
    if values["n_inner"] is None and isinstance(values["n_embd"], int):
        values["n_inner"] = 4 * values["n_embd"]
    faults += _value_faults(values)
    if faults:
        raise UserError(f"{path}: cannot be imported: {'; '.join(faults)}")
    return GPT2Shape(
        vocab_size=values["vocab_size"],
        num_positions=values["n_positions"],
        embed_dim=values["n_embd"],
        num_layers=values["n_layer"],
        num_heads=values["n_head"],
        ffn_dim=values["n_inner"],
        activation_fn=ACTIVATION_NAMES[values["activation_function"]],
        layer_norm_eps=float(values["layer_norm_epsilon"]),
        untied_output=not values["tie_word_embeddings"],
        dropout=float(values["resid_pdrop"]),
        embedding_dropout=float(values["embd_pdrop"]),
        attention_dropout=float(values["attn_pdrop"]),
    )


def unread_settings(config: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that are neither read nor known to have no effect."""
    read = {*_SIZES, *_RATES, *_OTHER_NAMES, *_FIXED, *_WITHOUT_EFFECT}
    return sorted(config.keys() - read)


def _architecture_faults(names: Any) -> Iterator[str]:
    if not isinstance(names, list) or len(names) > 1 or any(n not in _ARCHITECTURES for n in names):
        yield f"architectures is {names}, not {_ARCHITECTURES[0]}"


def _fixed_faults(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in _FIXED.items():
        found = config.get(name)
        if found is not None and found != value:
            shown = json.dumps(found)
            yield f"{name} is {shown if len(shown) < 60 else 'given'}, which gpt does not have"


def _value_faults(values: Mapping[str, Any]) -> Iterator[str]:
    for name in (*_SIZES, "n_inner"):
        if type(values[name]) is not int or values[name] < 1:
            yield f"{name} is {values[name]!r}, not a number of at least 1"
            return
    if values["n_embd"] % values["n_head"]:
        yield f"n_head {values['n_head']} does not divide n_embd {values['n_embd']}"
    name = values["activation_function"]
    if not isinstance(name, str) or name not in ACTIVATION_NAMES:
        yield f"activation_function {name!r} is none of {', '.join(ACTIVATION_NAMES)}"
    eps = values["layer_norm_epsilon"]
    if type(eps) not in (int, float) or not 0 < eps < 1:
        yield f"layer_norm_epsilon is {eps!r}, not a number between 0 and 1"
    for name in _RATES:
        if type(values[name]) not in (int, float) or not 0 <= values[name] < 1:
            yield f"{name} is {values[name]!r}, not a probability below 1"
    if type(values["tie_word_embeddings"]) is not bool:
        yield f"tie_word_embeddings is {values['tie_word_embeddings']!r}"


def config_of_shape(shape: GPT2Shape, ids: Mapping[str, int], dtype: str) -> dict[str, Any]:
    """Return the content of a ``config.json``.

    Args:
        shape: shape of the model.
        ids: special ids by role, ``bos``, ``eos`` and, if the model has one, ``pad``.
        dtype: dtype of the weights, such as ``float32``.
    """
    return {
        "activation_function": next(
            name for name, ours in ACTIVATION_NAMES.items() if ours == shape.activation_fn
        ),
        "add_cross_attention": False,
        "architectures": [_ARCHITECTURES[0]],
        "attn_pdrop": shape.attention_dropout,
        "bos_token_id": ids["bos"],
        "embd_pdrop": shape.embedding_dropout,
        "eos_token_id": ids["eos"],
        "initializer_range": 0.02,
        "layer_norm_epsilon": shape.layer_norm_eps,
        "model_type": "gpt2",
        "n_ctx": shape.num_positions,
        "n_embd": shape.embed_dim,
        "n_head": shape.num_heads,
        "n_inner": shape.ffn_dim,
        "n_layer": shape.num_layers,
        "n_positions": shape.num_positions,
        "pad_token_id": ids.get("pad"),
        "reorder_and_upcast_attn": False,
        "resid_pdrop": shape.dropout,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": not shape.untied_output,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def write_json(folder: str, name: str, content: Any) -> None:
    """Write a JSON file with one entry a line, as Hugging Face's libraries do."""
    with open(os.path.join(folder, name), "w", encoding="utf-8", newline="\n") as stream:
        json.dump(content, stream, indent=2, ensure_ascii=False)
        stream.write("\n")

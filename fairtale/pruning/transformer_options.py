"""Compute the options with which ``fairseq-train`` rebuilds a checkpoint's transformer.

They are used to train an existing model with gates.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UserError
from .checkpoint import (
    NOT_GATED,
    NOT_PRUNED,
    check_architecture,
    option_of,
    options_in_use,
    read_settings,
)
from .parts import HEAD_TYPES, SIDES

# Settings that every transformer with an encoder and a decoder has.
_SHAPE = [
    f"{side}_{name}"
    for side in SIDES
    for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")
]
VALUES = [
    *_SHAPE,
    "decoder_output_dim",
    "activation_fn",
    "max_source_positions",
    "max_target_positions",
    # options of pruned models
    *(f"{kind}_layer_heads" for kind in HEAD_TYPES),
    *(f"{side}_layer_ffn" for side in SIDES),
]
FLAGS = [
    *(f"{side}_{name}" for side in SIDES for name in ("normalize_before", "learned_pos")),
    "share_decoder_input_output_embed",
    "share_all_embeddings",
    "no_token_positional_embeddings",
    "layernorm_embedding",
    "no_scale_embedding",
    "no_decoder_final_norm",
]
REFUSED = [*NOT_GATED, *NOT_PRUNED]


def transformer_options(path: str) -> list[str]:
    """Return the options for ``fairseq-train`` as words of a command line.

    Args:
        path: path of the checkpoint.

    Raises:
        UserError: the model is not a transformer with encoder and decoder, or it cannot be
            rebuilt; the message lists all reasons.
    """
    checkpoint = read_settings(path)
    check_architecture(checkpoint)
    model = vars(checkpoint.settings)
    missing = [name for name in _SHAPE if name not in model]
    if missing:
        raise UserError(
            f"{path}: not a transformer with encoder and decoder ({missing[0]} not found)"
        )
    refused = options_in_use(checkpoint.settings, REFUSED)
    if refused:
        raise UserError(
            f"{path}: cannot be trained with gates, because it was trained with {' '.join(refused)}"
        )
    for side in SIDES:
        if model.get(f"{side}_layers_to_keep"):  # the checkpoint contains only the kept layers
            model[f"{side}_layers"] = _num_layers(checkpoint.state["model"], side)
    words = []
    for name in VALUES:
        if model.get(name) not in (None, ""):
            words += [option_of(name), str(model[name])]
    return words + options_in_use(checkpoint.settings, FLAGS)


def _num_layers(names: Iterable[str], side: str) -> int:
    return len({name.split(".")[2] for name in names if name.startswith(f"{side}.layers.")})

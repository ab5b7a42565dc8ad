"""Name the parts of a transformer in options, tables and state dicts.

The key of an attention consists of its type and layer: "encoder.0" (encoder self-attention),
"decoder.0" (decoder self-attention), "cross.0" (the decoder's cross attention to the encoder). The
key of a feed-forward layer consists of its side and layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

HEAD_TYPES = ("encoder", "decoder", "cross")
SIDES = ("encoder", "decoder")
_OF_TYPE = {
    "encoder": ("encoder", "self_attn"),
    "decoder": ("decoder", "self_attn"),
    "cross": ("decoder", "encoder_attn"),
}


def type_of(key: str) -> str:
    """Return the type of an attention: cross.1 -> cross."""
    return key.partition(".")[0]


def types_of(keys: Iterable[str]) -> list[str]:
    """Return the distinct types of attentions, in the order of their first appearance."""
    return list(dict.fromkeys(map(type_of, keys)))


def place_of(key: str) -> tuple[str, int, str]:
    """Return the side, layer and module name: cross.1 -> decoder, 1, encoder_attn."""
    kind, _, number = key.partition(".")
    side, name = _OF_TYPE[kind]
    return side, int(number), name


def attention_prefix(key: str) -> str:
    """Return the prefix in state dicts: cross.1 -> ``decoder.layers.1.encoder_attn.``"""
    side, number, name = place_of(key)
    return f"{side}.layers.{number}.{name}."


def attentions(model: Any) -> dict[str, Any]:
    """Return every attention of a fairseq transformer, gated or not, under its key."""
    found = {}
    for kind, (side, name) in _OF_TYPE.items():
        for number, layer in enumerate(getattr(model, side).layers):
            if getattr(layer, name, None) is not None:  # absent with --no-cross-attention
                found[f"{kind}.{number}"] = getattr(layer, name)
    return found


def feed_forwards(model: Any) -> dict[str, tuple[Any, Any]]:
    """Return ``(fc1, fc2)`` of every feed-forward layer under its key."""
    return {
        f"{side}.{number}": (layer.fc1, layer.fc2)
        for side in SIDES
        for number, layer in enumerate(getattr(model, side).layers)
    }

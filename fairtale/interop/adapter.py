"""Adapters without their base: from a checkpoint, and onto a model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..compat import read_checkpoint
from ..errors import UserError
from ..modules import lora, lora_state
from ..modules.prefix_transformer import PrefixTransformer


@dataclass(frozen=True)
class Adapter:
    """Adapters without their base."""

    source: str  # folder or checkpoint, for error messages
    shape: lora.AdapterShape
    weights: lora_state.Adapters  # fp32, or as in the checkpoint
    base: str | None  # fingerprint of the base; None if it is not recorded

    @property
    def num_layers(self) -> int:
        """Return L."""
        return 1 + max(layer for layer, _ in self.weights)


def adapter_of_checkpoint(path: str, state: Mapping[str, Any] | None = None) -> Adapter:
    """Return the adapters of a checkpoint that was trained with ``--lora-rank``.

    Args:
        path: the checkpoint.
        state: its content, if it has already been read.

    Raises:
        UserError: the file is not a checkpoint, or has no adapters.
    """
    state = read_checkpoint(path) if state is None else state
    options = model_options(state)
    names = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")
    shape = lora.adapter_shape(*(options.get(name) for name in names))
    weights = lora_state.split_adapters(state["model"])
    if shape is None or not weights:
        raise UserError(f"{path}: has no adapters; name a checkpoint trained with --lora-rank")
    base = lora_state.recorded_base(state["model"]) or lora_state.base_fingerprint(state["model"])
    return Adapter(path, shape, weights, base)


def model_options(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the model of a checkpoint, as read from its file."""
    settings = (state.get("cfg") or {}).get("model") or state.get("args") or {}
    return dict(vars(settings) if isinstance(settings, Namespace) else settings)


def check_fit(adapter: Adapter, base: Mapping[str, Tensor], path: str) -> None:
    """Refuse an adapter that was made for another base.

    Args:
        adapter: the adapter.
        base: state dict of the base.
        path: checkpoint of the base, for error messages.

    Raises:
        UserError: the base has other layers or widths, other weights, or adapters of its own.
    """
    what = f"adapter {adapter.source}"
    if lora_state.split_adapters(base):
        raise UserError(f"{path}: has adapters of its own; name the base from which it was trained")
    _check_sizes(adapter, base, path)
    lora_state.check_base(adapter.base, base, what)


def _check_sizes(adapter: Adapter, base: Mapping[str, Tensor], path: str) -> None:
    layers, what = set(), f"adapter {adapter.source}"
    for key in base:
        if key.startswith("transformer.layers."):
            layers.add(int(key.split(".")[2]))
    if len(layers) != adapter.num_layers:
        raise UserError(
            f"{what}: made for {adapter.num_layers} layers, but {path} has {len(layers)}"
        )
    for (layer, target), (a, b) in adapter.weights.items():
        weight = base[lora_state.adapter_keys(layer, target)[0]]
        if (b.size(0), a.size(1)) != tuple(weight.shape):
            raise UserError(
                f"{what}: {target} of layer {layer} leads from {a.size(1)} to {b.size(0)} units, "
                f"but in {path} from {weight.size(1)} to {weight.size(0)}"
            )


def put_adapter(transformer: PrefixTransformer, adapter: Adapter) -> None:
    """Put an adapter on a transformer, whose weights may still have to be loaded.

    :func:`~fairtale.modules.lora_state.complete_state_dict` then checks that they are the base's.

    Raises:
        UserError: the transformer has other layers or widths.
    """
    own = {f"transformer.{key}": value for key, value in transformer.state_dict().items()}
    _check_sizes(adapter, own, "the model")
    lora.add_adapters(transformer, adapter.shape)
    own = {f"transformer.{key}": value for key, value in transformer.state_dict().items()}
    for (layer, target), pair in adapter.weights.items():
        for key, factor in zip(lora_state.adapter_keys(layer, target)[1:], pair):
            own[key].copy_(factor)
    if adapter.base:
        recorded = torch.frombuffer(bytearray.fromhex(adapter.base), dtype=torch.uint8)
        cast(Tensor, getattr(transformer, lora.BASE)).copy_(recorded)


def merged_checkpoint(state: Mapping[str, Any], adapter: Adapter) -> dict[str, Any]:
    """Return the content of a plain checkpoint, without adapters and without optimizer state.

    Args:
        state: content of the checkpoint of the base, or of the adapter's own training.
        adapter: the adapter, which fits the base.
    """
    plain = {"lora_rank": 0, "lora_alpha": None, "lora_dropout": None, "lora_target": None}
    known = ("args", "cfg", "task_state", "optimizer_history", "extra_state")
    merged = {key: state[key] for key in known if key in state}
    if merged.get("cfg"):
        cfg = merged["cfg"] = dict(merged["cfg"])
        options = model_options(state)
        options.update({name: value for name, value in plain.items() if name in options})
        as_namespace = isinstance(cfg["model"], Namespace)
        cfg["model"] = Namespace(**options) if as_namespace else options
    elif merged.get("args"):
        options = vars(merged["args"])
        options = {**options, **{name: plain[name] for name in plain if name in options}}
        merged["args"] = Namespace(**options)
    model = lora_state.merge_adapters(state["model"], adapter.weights, adapter.shape.scale)
    return {**merged, "model": model, "criterion": None, "last_optimizer_state": None}

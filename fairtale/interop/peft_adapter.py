"""Adapters as PEFT saves them: ``adapter_config.json`` and ``adapter_model.safetensors``.

PEFT names layers as Hugging Face's GPT-2 does. Its ``c_attn`` is the fused projection to queries,
keys and values, and two layers are called ``c_proj``. The factors A [r, in] and B [out, r] are the
same as ours, although GPT-2's own weights are transposed. The file of weights also holds the
fingerprint of the base, which PEFT ignores and loses when it saves an adapter again.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch

from ..data.corpus.whole_folder import new_folder, refuse_existing
from ..errors import UserError
from ..modules.lora import AdapterShape
from .adapter import Adapter
from .gpt2_config import read_json_object, write_json
from .tensor_files import library

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FINGERPRINT = "base_sha256"  # in the metadata of the file of weights

# our target -> path of the layer in a block of Hugging Face's GPT-2
LAYERS = {"qkv": "attn.c_attn", "out": "attn.c_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
_KEY = re.compile(
    r"base_model\.model\.(?:transformer\.)?h\.(0|[1-9][0-9]{0,5})\.((?:attn|mlp)\.c_\w+)\.lora_([AB])\.weight"
)
# settings that say how an adapter was made and not what it computes
_ANY = {
    *("auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode"),
    *("megatron_core", "peft_version", "qalora_group_size", "revision"),
    # the keys of the weights show the layers
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora"),  # these are read
}
# values of other settings with which they have no effect; all others must be "off"
_NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "task_type": (None, "CAUSAL_LM", "FEATURE_EXTRACTION"),
    "init_lora_weights": (True, False, "gaussian"),  # others also change the weights of the base
}
_LARGEST = 1e30  # of numbers in the settings
_OFF: tuple[Any, ...] = (None, False, [], {})


# ------------------------------------------------------------------------------------- reading


def read_adapter(folder: str) -> Adapter:
    """Read an adapter that :func:`write_adapter` or PEFT has saved.

    Raises:
        UserError: the folder is not an adapter of GPT-2's linear layers, is damaged, or has a
            setting that is not supported; the message names all such settings.
    """
    config = _read_config(folder)
    path = os.path.join(folder, WEIGHTS)
    if not os.path.isfile(path):
        old = os.path.isfile(os.path.join(folder, "adapter_model.bin"))
        remedy = "save it again with peft's safe_serialization=True" if old else "copy it again"
        raise UserError(f"adapter {folder}: {WEIGHTS} is missing; {remedy}")
    with _opened(path) as file:
        keys = file.keys()
        places = _places(folder, {key: file.get_slice(key).get_shape() for key in keys})
        shape = _shape(folder, config, places)
        base = (file.metadata() or {}).get(FINGERPRINT)
        tensors = {place: file.get_tensor(key) for place, (key, _) in places.items()}
    for place, (key, _) in places.items():
        if not tensors[place].is_floating_point() or not torch.isfinite(tensors[place]).all():
            raise UserError(
                f"adapter {folder}: {key} has infinite values or no numbers; train it again"
            )
        tensors[place] = tensors[place].float()
    pairs = sorted({(layer, target) for layer, target, _ in tensors})
    weights = {(n, t): (tensors[n, t, "A"], tensors[n, t, "B"]) for n, t in pairs}
    return Adapter(folder, shape, weights, base)


def _read_config(folder: str) -> dict[str, Any]:
    """Return the settings of an adapter, and refuse those that change what it computes."""
    path = os.path.join(folder, CONFIG)
    if not os.path.isfile(path):
        raise UserError(f"adapter {folder}: {CONFIG} is missing; name a folder that peft has saved")
    config = read_json_object(path)
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise UserError(f"{path}: peft_type is {kind!r}; only LORA is supported")
    odd = [
        f"{name}={value!r}"
        for name, value in config.items()
        if name not in _ANY and value not in _NO_EFFECT.get(name, _OFF)
    ]
    if odd:
        raise UserError(
            f"{path}: not supported: {', '.join(odd)}; merge the adapter with peft "
            "(merge_and_unload) and import the merged model instead"
        )
    return config


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a safetensors file, with errors for people."""
    reader = library()
    try:
        with reader.safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except reader.SafetensorError as error:
        raise UserError(f"{path}: cut short or damaged ({error}); copy it again") from None


def _places(
    folder: str, shapes: Mapping[str, list[int]]
) -> dict[tuple[int, str, str], tuple[str, list[int]]]:
    """Return key and shape of each factor by layer, target and "A" or "B".

    Raises:
        UserError: a key is unknown, or a factor is missing.
    """
    targets = {path: target for target, path in LAYERS.items()}
    found, unknown = {}, []
    for key, size in shapes.items():
        match = _KEY.fullmatch(key)
        if match is None or match[2] not in targets:
            unknown.append(key)
        else:
            found[int(match[1]), targets[match[2]], match[3]] = (key, size)
    if unknown:
        raise UserError(
            f"adapter {folder}: unknown weight {unknown[0]}"
            f"{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}; adapters are "
            f"supported on {', '.join(LAYERS.values())} of GPT-2, and on no embedding and head"
        )
    layers = 1 + max((layer for layer, _, _ in found), default=-1)
    used = [target for target in LAYERS if any(target == t for _, t, _ in found)]
    for layer in range(layers):
        for target in used:
            for factor in "AB":
                if (layer, target, factor) not in found:
                    raise UserError(
                        f"adapter {folder}: layer {layer} has no lora_{factor} on "
                        f"{LAYERS[target]}; all layers must have the same adapters"
                    )
    if not found:
        raise UserError(f"adapter {folder}: {WEIGHTS} has no weights")
    return found


def _shape(folder: str, config: Mapping[str, Any], places: Mapping[Any, Any]) -> AdapterShape:
    """Return the shape that settings and weights agree on.

    Raises:
        UserError: they do not agree, or a setting is out of range.
    """
    rank, alpha, rate = (config.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
    rate = 0.0 if rate is None else rate
    if type(rank) is not int or not _is_number(alpha) or not _is_number(rate):
        given = zip(("r", "lora_alpha", "lora_dropout"), (rank, alpha, rate))
        shown = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in given)
        raise UserError(f"{folder}/{CONFIG}: {shown}: must be numbers; copy the adapter again")
    rslora = config.get("use_rslora")
    if not isinstance(rslora, bool | None):
        raise UserError(f"{folder}/{CONFIG}: use_rslora={reprlib.repr(rslora)}: must be a boolean")
    for (layer, target, factor), (_, size) in places.items():
        found = size[0 if factor == "A" else 1] if len(size) == 2 else None
        if found != rank:
            raise UserError(
                f"adapter {folder}: r={rank} in {CONFIG}, but lora_{factor} on {LAYERS[target]} "
                f"of layer {layer} is {'x'.join(map(str, size))}"
            )
    targets = {target for _, target, _ in places}
    named = config.get("target_modules")
    if isinstance(named, list):
        known = {t for t, path in LAYERS.items() for n in named if f".{path}".endswith(f".{n}")}
        if known != targets:
            raise UserError(
                f"adapter {folder}: target_modules={named} in {CONFIG}, but the weights are of "
                f"{', '.join(LAYERS[t] for t in LAYERS if t in targets)}"
            )
    if rslora:  # Kalajdzievski 2023: the scale is alpha / sqrt(r)
        alpha = alpha * math.sqrt(rank)
    try:
        return AdapterShape(rank, float(alpha), float(rate), tuple(targets))
    except UserError as error:
        raise UserError(f"adapter {folder}: {error}") from None


def _is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value of a JSON file is a finite number; booleans are none."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


# ------------------------------------------------------------------------------------- writing


def write_adapter(folder: str, adapter: Adapter, base_model: str | None = None) -> None:
    """Save an adapter in PEFT's format.

    Args:
        folder: the new folder.
        adapter: the adapter.
        base_model: name or folder of the base in Hugging Face's format, which PEFT's
            ``AutoPeftModel`` loads.

    Raises:
        UserError: the folder exists and is not empty.
    """
    save = library().torch.save_file
    refuse_existing(folder)
    shape = adapter.shape
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": True,  # GPT-2's weights are transposed
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(shape.alpha) if shape.alpha.is_integer() else shape.alpha,
        "lora_dropout": shape.dropout,
        "peft_type": "LORA",
        "r": shape.rank,
        "target_modules": [LAYERS[target] for target in shape.targets],
        "task_type": "CAUSAL_LM",
    }
    tensors = {
        f"base_model.model.transformer.h.{layer}.{LAYERS[target]}.lora_{name}.weight": factor
        for (layer, target), pair in adapter.weights.items()
        for name, factor in zip("AB", (x.detach().float().cpu().contiguous() for x in pair))
    }
    metadata = {"format": "pt", **({FINGERPRINT: adapter.base} if adapter.base else {})}
    with new_folder(folder) as made:
        write_json(made, CONFIG, config)
        path = os.path.join(made, WEIGHTS)
        save(tensors, path, metadata)
        shutil.copymode(os.path.join(made, CONFIG), path)  # safetensors lets only the owner read it

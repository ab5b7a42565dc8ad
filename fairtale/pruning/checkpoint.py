"""Reading a transformer's checkpoint for pruning, and building its model without a dataset."""

from __future__ import annotations

import copy
import os
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from fairseq import checkpoint_utils, models
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.transformer import TransformerModel, TransformerModelBase
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..compat import read_checkpoint
from ..errors import UserError
from .parts import SIDES
from .removal import ARCHITECTURE, Plan, pruned_settings, unit_counts

_PARTS = ("encoder", "decoder", "quant_noise")  # of a nested config; flat: encoder_layers
# Options of transformers whose parts do not shrink with the heads, so that none can be removed.
NOT_PRUNED = (
    "cross_self_attention",
    "no_cross_attention",
    "base_layers",
    "char_inputs",
    "encoder_xformers_att_config",
    "decoder_xformers_att_config",
    "scale_attn",
    "scale_heads",
    "scale_fc",
    "scale_resids",
)
# Options that gates cannot be trained with, though heads can be removed from such a model.
NOT_GATED = (
    "adaptive_input",
    "adaptive_softmax_cutoff",
    "tie_adaptive_weights",
    "tie_adaptive_proj",
    "merge_src_tgt_embed",
    "quant_noise_pq",
    "quant_noise_scalar",
)


@dataclass
class Checkpoint:
    """A checkpoint and the model in it."""

    path: str
    state: dict[str, Any]  # as saved; the weights are mapped, not read
    cfg: Any  # fairseq's config
    settings: Namespace  # of the model, under fairseq's flat names
    model: Any = None  # None where settings alone were read


def read_settings(path: str) -> Checkpoint:
    """Read a checkpoint without building its model.

    Raises:
        UserError: there is no such file, or it is no checkpoint.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; name the checkpoint of a trained transformer")
    state = dict(read_checkpoint(path))
    if state.get("cfg") is not None:
        state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    state = checkpoint_utils._upgrade_state_dict(state)
    cfg = (
        state["cfg"] if state.get("args") is None else convert_namespace_to_omegaconf(state["args"])
    )
    return Checkpoint(path, state, cfg, flat_settings(cfg.model))


def open_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint's settings and build its model, on the CPU, in evaluation mode.

    Raises:
        UserError: it is no transformer that can be pruned; all reasons are named.
    """
    checkpoint = read_settings(path)
    _check(checkpoint)
    checkpoint.model = build_model(checkpoint.settings, checkpoint.state["model"])
    return checkpoint


def flat_settings(model_cfg: Any) -> Namespace:
    """Return a model's settings under fairseq's flat names, whatever form they are saved in."""
    if isinstance(model_cfg, Namespace):
        return copy.copy(model_cfg)
    flat: dict[str, Any] = {}
    nested = cast(dict[str, Any], OmegaConf.to_container(model_cfg, resolve=True))
    for name, value in nested.items():
        if name in _PARTS and isinstance(value, dict):
            flat.update({f"{name}_{inner}": v for inner, v in value.items()})
        else:
            flat[name] = value
    return Namespace(**flat)


def option_of(name: str) -> str:
    """Return the option of a setting: ``no_cross_attention`` -> ``--no-cross-attention``."""
    return f"--{name.replace('_', '-')}"


def options_in_use(settings: Namespace, names: Iterable[str]) -> list[str]:
    """Return the options that a model was trained with, of those called ``names``."""
    return [option_of(name) for name in names if getattr(settings, name, None)]


def _check(checkpoint: Checkpoint) -> None:
    settings, state = checkpoint.settings, checkpoint.state["model"]
    name = getattr(settings, "_name", None) or getattr(settings, "arch", None)
    kind = models.ARCH_MODEL_REGISTRY.get(name) or models.MODEL_REGISTRY.get(name)
    ours = models.MODEL_REGISTRY.get(ARCHITECTURE)
    if kind not in (TransformerModel, TransformerModelBase, ours):
        raise UserError(
            f"{checkpoint.path}: its architecture {name} is not fairseq's transformer nor "
            f"{ARCHITECTURE}; only these can be pruned"
        )
    problems = options_in_use(settings, NOT_PRUNED)
    if "encoder.embed_tokens.weight" not in state or "decoder.embed_tokens.weight" not in state:
        problems.append("an adaptive input")
    for side in SIDES:
        width = getattr(settings, f"{side}_embed_dim")
        heads = getattr(settings, f"{side}_attention_heads")
        if heads < 1 or width % heads:
            problems.append(f"{heads} {side} heads, which do not divide {width} channels")
    if problems:
        raise UserError(f"{checkpoint.path}: cannot be pruned, for it has {' and '.join(problems)}")


def build_model(settings: Namespace, weights: dict[str, Tensor]) -> nn.Module:
    """Build a model without its task, load its weights, and return it in evaluation mode.

    Args:
        settings: under fairseq's flat names.
        weights: a state dict, also of an older fairseq; the dictionaries are made as large as its
            embeddings.
    """
    model = new_model(settings, *(len(weights[f"{side}.embed_tokens.weight"]) for side in SIDES))
    model.load_state_dict(dict(weights), strict=True, model_cfg=settings)
    return cast(nn.Module, model.eval())


def new_model(settings: Namespace, source_size: int, target_size: int) -> Any:
    """Build a model with made-up dictionaries of these sizes, V."""
    source = _dictionary(source_size)
    target = source if source_size == target_size else _dictionary(target_size)
    task = Namespace(source_dictionary=source, target_dictionary=target)
    bare = {
        # files of the machine it was trained on, and what only training needs
        "encoder_embed_path": None,
        "decoder_embed_path": None,
        "checkpoint_activations": False,
        "offload_activations": False,
    }
    return models.build_model(Namespace(**{**vars(settings), **bare}), task)


def _dictionary(size: int) -> Dictionary:
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return dictionary


def check_dictionaries(task: Any, weights: dict[str, Tensor], path: str, data: str) -> None:
    """Refuse data whose dictionaries are not those of a checkpoint.

    Args:
        task: of the data.
        weights: of the checkpoint.
        path: of the checkpoint, for the error.
        data: the data folder, for the error.

    Raises:
        UserError: their sizes differ.
    """
    for side, dictionary in zip(SIDES, (task.source_dictionary, task.target_dictionary)):
        size = len(weights[f"{side}.embed_tokens.weight"])
        entries = 0 if dictionary is None else len(dictionary)
        if entries != size:
            raise UserError(
                f"--data {data}: its dictionary has {entries} entries, the {side} of {path} has "
                f"{size}; name the data that the model was trained on"
            )


def pruned_checkpoint(
    checkpoint: Checkpoint, weights: dict[str, Tensor], plan: Plan, note: dict[str, Any]
) -> dict[str, Any]:
    """Return what is to be saved: the pruned model, the task, and no optimizer.

    Numbers keep the precision that they were saved in.

    Args:
        weights: of the pruned model.
        note: settings of the pruning, kept under ``extra_state`` -> ``pruned``.
    """
    units = {**unit_counts(checkpoint.model), **{k: len(v) for k, v in plan.units.items()}}
    settings = pruned_settings(checkpoint.settings, plan, units)
    dtype = checkpoint.state["model"]["decoder.embed_tokens.weight"].dtype
    same: dict[tuple[Any, ...], Tensor] = {}  # shared parameters are saved once

    def saved(value: Tensor) -> Tensor:
        key = (value.data_ptr(), tuple(value.shape), value.stride())
        if key not in same or value.numel() == 0:
            compact = value.detach().to(dtype if value.is_floating_point() else value.dtype)
            same[key] = (
                compact.clone() if compact.untyped_storage().nbytes() > compact.nbytes else compact
            )
        return same[key]

    cfg = cast(dict[str, Any], OmegaConf.to_container(checkpoint.cfg))
    extra = {k: v for k, v in checkpoint.state["extra_state"].items() if not k.startswith("ema")}
    return {
        **{k: v for k, v in checkpoint.state.items() if k in ("task_state", "criterion")},
        "args": None,
        "cfg": {**cfg, "model": settings},
        "model": {name: saved(value) for name, value in weights.items()},
        "optimizer_history": checkpoint.state["optimizer_history"],
        "last_optimizer_state": None,
        "extra_state": {**extra, "pruned": note},
    }


def load_pruned(pruned: dict[str, Any]) -> nn.Module:
    """Build the model of a pruned checkpoint, which shows that the checkpoint can be loaded."""
    return build_model(pruned["cfg"]["model"], pruned["model"])

"""Read a transformer's checkpoint for pruning, and build its model without a dataset."""

from __future__ import annotations

import copy
import os
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from fairseq import checkpoint_utils, models
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.transformer import TransformerModel, TransformerModelBase
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..compat import read_checkpoint
from ..compat.weights import refuse_broken_weights, without_averages
from ..errors import UserError
from .parts import SIDES
from .removal import ARCHITECTURE, Plan, pruned_settings, unit_counts

_PARTS = ("encoder", "decoder", "quant_noise")  # nested configs; flat names as encoder_layers
GATED_CRITERION, PLAIN_CRITERION = "l0_gated", "label_smoothed_kl"
# Options of transformers with parts that do not shrink with the heads; no heads can be removed.
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
# Options of transformers from which heads can be removed, but which cannot be trained with gates.
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
    """A checkpoint and its model."""

    path: str
    state: dict[str, Any]  # content of the file; the weights are memory-mapped
    cfg: Any  # fairseq's config
    settings: Namespace  # settings of the model, under fairseq's flat names
    model: Any = None  # None if only the settings were read


def read_settings(path: str) -> Checkpoint:
    """Read a checkpoint without building its model.

    Raises:
        UserError: the file does not exist, or is not a checkpoint.
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
    """Read a checkpoint and build its model, on the CPU and in evaluation mode.

    Raises:
        UserError: the model is not a transformer that can be pruned; the message lists all reasons.
            Or its weights are not numbers.
    """
    checkpoint = read_settings(path)
    _check(checkpoint)
    refuse_broken_weights(path, checkpoint.state["model"])
    checkpoint.model = build_model(checkpoint.settings, checkpoint.state["model"])
    return checkpoint


def flat_settings(model_cfg: Any) -> Namespace:
    """Return a model's settings under fairseq's flat names, from any form of its config.

    Args:
        model_cfg: a namespace, or a flat or nested config of omegaconf.
    """
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
    """Return those of the options ``names`` that a model was trained with."""
    return [option_of(name) for name in names if getattr(settings, name, None)]


def check_architecture(checkpoint: Checkpoint) -> None:
    """Refuse variants of fairseq's transformer, such as ``transformer_align``.

    Raises:
        UserError: the model is of another class than ``transformer`` and ``transformer_hcg``.
    """
    settings = checkpoint.settings
    name = getattr(settings, "_name", None) or getattr(settings, "arch", None)
    kind = models.ARCH_MODEL_REGISTRY.get(name) or models.MODEL_REGISTRY.get(name)
    ours = models.MODEL_REGISTRY.get(ARCHITECTURE)
    if kind not in (TransformerModel, TransformerModelBase, ours):
        raise UserError(
            f"{checkpoint.path}: its architecture {name} is neither fairseq's transformer nor "
            f"{ARCHITECTURE}; only these can be pruned"
        )


def _check(checkpoint: Checkpoint) -> None:
    check_architecture(checkpoint)
    settings, state = checkpoint.settings, checkpoint.state["model"]
    problems = options_in_use(settings, NOT_PRUNED)
    if "encoder.embed_tokens.weight" not in state or "decoder.embed_tokens.weight" not in state:
        problems.append("an adaptive input")
    for side in SIDES:
        width = getattr(settings, f"{side}_embed_dim")
        heads = getattr(settings, f"{side}_attention_heads")
        if heads < 1 or width % heads:
            problems.append(f"{heads} {side} heads, which do not divide {width} channels")
    if problems:
        raise UserError(
            f"{checkpoint.path}: cannot be pruned, because it has {' and '.join(problems)}"
        )


def build_model(settings: Namespace, weights: dict[str, Tensor]) -> nn.Module:
    """Build a model without its task, load its weights, and return it in evaluation mode.

    Args:
        settings: settings of the model, under fairseq's flat names.
        weights: state dict, which may come from an older fairseq. Its embeddings determine the
            sizes of the dictionaries.
    """
    model = new_model(settings, *(len(weights[f"{side}.embed_tokens.weight"]) for side in SIDES))
    model.load_state_dict(dict(weights), strict=True, model_cfg=settings)
    return cast(nn.Module, model.eval())


def new_model(settings: Namespace, source_size: int, target_size: int) -> Any:
    """Build a model with placeholder dictionaries.

    Args:
        settings: settings of the model, under fairseq's flat names.
        source_size: V of the source dictionary.
        target_size: V of the target dictionary.
    """
    source = _dictionary(source_size)
    target = source if source_size == target_size else _dictionary(target_size)
    task = Namespace(source_dictionary=source, target_dictionary=target)
    bare = {
        # leave out files of the machine that trained the model, and options for training only
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
    """Refuse data whose dictionaries differ in size from the embeddings of a checkpoint.

    Args:
        task: task that has loaded the dictionaries of the data.
        weights: state dict of the checkpoint.
        path: path of the checkpoint, for the error message.
        data: data folder, for the error message.

    Raises:
        UserError: the sizes differ.
    """
    for side, dictionary in zip(SIDES, (task.source_dictionary, task.target_dictionary)):
        size = len(weights[f"{side}.embed_tokens.weight"])
        entries = 0 if dictionary is None else len(dictionary)
        if entries != size:
            raise UserError(
                f"--data {data}: its dictionary has {entries} entries, but the {side} of {path} "
                f"has {size}; give the data that the model was trained on"
            )


def pruned_checkpoint(
    checkpoint: Checkpoint, weights: dict[str, Tensor], plan: Plan, note: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of the pruned checkpoint: model and task, but no optimizer state.

    Weights keep the precision of the original checkpoint.

    Args:
        checkpoint: the original checkpoint.
        weights: state dict of the pruned model.
        plan: the parts that were kept.
        note: settings of the pruning, stored under ``extra_state`` -> ``pruned``.
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
    cfg["criterion"] = _without_gates(cfg.get("criterion"))
    extra = without_averages(checkpoint.path, checkpoint.state, "pruned")
    return {
        **{k: v for k, v in checkpoint.state.items() if k in ("task_state", "criterion")},
        "args": None,
        "cfg": {**cfg, "model": settings},
        "model": {name: saved(value) for name, value in weights.items()},
        "optimizer_history": checkpoint.state["optimizer_history"],
        "last_optimizer_state": None,
        "extra_state": {**extra, "pruned": note},
    }


def _without_gates(criterion: Any) -> Any:
    """Return the criterion that scores the pruned model: that of its training, without the gates.

    ``l0_gated`` refuses a model that has no gates.
    """
    if not isinstance(criterion, dict) or criterion.get("_name") != GATED_CRITERION:
        return criterion
    known = CRITERION_DATACLASS_REGISTRY[PLAIN_CRITERION].__dataclass_fields__
    kept = {name: value for name, value in criterion.items() if name in known}
    return {**kept, "_name": PLAIN_CRITERION}


def load_pruned(pruned: dict[str, Any]) -> nn.Module:
    """Build the model of a pruned checkpoint, to check that the checkpoint can be loaded."""
    return build_model(pruned["cfg"]["model"], pruned["model"])

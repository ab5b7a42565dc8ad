"""Make a checkpoint of ``story_lm`` and ``gpt`` from weights that were not trained here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..plugin import register
from .gpt2_config import GPT2Shape

CRITERION = "label_smoothed_kl"


def new_checkpoint(
    shape: GPT2Shape, weights: Mapping[str, Tensor], data: str, final_data: str
) -> dict[str, Any]:
    """Return the content of a checkpoint, as fairseq's trainer would save it before any update.

    Args:
        shape: shape of the model.
        weights: state dict of the model.
        data: folder with ``dict.txt``.
        final_data: path that this folder will have; it is stored in the checkpoint.
    """
    register()
    from fairseq import options, tasks
    from fairseq.criterions import CRITERION_REGISTRY
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from omegaconf import OmegaConf

    # the criterion is that of validation, which then shows bits per byte
    words = [final_data, "--task", "story_lm", "--criterion", CRITERION, *words_of_shape(shape)]
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=words)
    cfg = convert_namespace_to_omegaconf(args)
    settings: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    task = tasks.setup_task(OmegaConf.merge(cfg.task, {"data": data}))
    history = {
        "criterion_name": CRITERION_REGISTRY[CRITERION].__name__,
        "optimizer_name": "none",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    return {
        "args": None,
        "cfg": settings,
        "model": dict(weights),
        "criterion": None,
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "task_state": task.state_dict(),
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }


def words_of_shape(shape: GPT2Shape) -> list[str]:
    """Return the options of ``fairseq-train`` for a shape."""
    values = {
        "--arch": "gpt",
        "--tokens-per-sample": shape.num_positions,
        "--max-target-positions": shape.num_positions,
        "--decoder-embed-dim": shape.embed_dim,
        "--decoder-ffn-embed-dim": shape.ffn_dim,
        "--decoder-layers": shape.num_layers,
        "--decoder-attention-heads": shape.num_heads,
        "--activation-fn": shape.activation_fn,
        "--layer-norm-eps": shape.layer_norm_eps,
        "--dropout": shape.dropout,
        "--attention-dropout": shape.attention_dropout,
    }
    words = [str(word) for pair in values.items() for word in pair]
    return [*words, "--untied-output"] if shape.untied_output else words

"""Find the layer in which fp16 overflowed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from torch import Tensor, nn

from .engine import ShardedModel
from .shards import local_part

logger = logging.getLogger(__name__)


def overflowed_gradients(sharding: ShardedModel) -> str:
    """Return which gradients are infinite or no numbers, in words.

    All processes must call this together.
    """
    names, flags = _flags(sharding.module)
    return _describe(names, sharding.sum_of_processes(flags).bool().tolist())


def log_overflows(scaler: DynamicLossScaler, model: nn.Module, is_first: bool) -> None:
    """Let the loss scaler of a training that is not sharded log in which layer fp16 overflowed.

    Args:
        scaler: the scaler of fairseq's optimizer, which is changed.
        model: the model, whose gradients are reduced when the scaler looks at their norm.
        is_first: whether this process logs.
    """
    original = scaler.check_overflow

    def check_overflow(grad_norm: Any) -> None:
        try:
            original(grad_norm)
        except (OverflowError, FloatingPointError):
            if is_first:
                names, flags = _flags(model)
                logger.warning(f"fp16 overflow: {_describe(names, flags.bool().tolist())}")
            raise

    scaler.check_overflow = check_overflow


def _flags(model: nn.Module) -> tuple[list[str], Tensor]:
    """Return the names of all parameters, and 1 for those with a gradient that is not finite."""
    named = dict(model.named_parameters())
    flags = torch.zeros(len(named))
    for number, parameter in enumerate(named.values()):
        if parameter.grad is not None:
            flags[number] = (~local_part(parameter.grad).isfinite()).any()
    return list(named), flags


def _describe(names: list[str], wrong: list[bool]) -> str:
    """Return where the backward pass overflowed.

    It goes from the top to the bottom, and everything below the layer that overflowed is infinite
    as well, so the topmost such layer is named.
    """
    found = [name for name, flag in zip(names, wrong) if flag]
    if not found:
        return "the sum of the gradients is too large"
    layers = [name for name in names if ".layers." in name]
    top = next((name for name in reversed(layers) if name in found), found[-1])
    outside = [name for name in names if name not in layers]
    if all(name in found for name in outside) and layers and _layer(layers[-1]) == _layer(top):
        return f"all {len(found)} gradients, from the output projection or the loss down"
    return f"gradients of {len(found)} parameters, from {_layer(top)} down ({top})"


def _layer(name: str) -> str:
    """Return the name of the layer that a parameter belongs to, or that of the parameter."""
    parts = name.split(".")
    return ".".join(parts[: parts.index("layers") + 2]) if "layers" in parts else name


def overflowed_module(model: nn.Module, run: Callable[[], Any]) -> str | None:
    """Return the name of the first module whose output is infinite or no number.

    Args:
        model: the model.
        run: runs the forward pass.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if not found and isinstance(first, Tensor) and first.is_floating_point():
                if not first.isfinite().all():
                    found.append(name)

        return hook

    hooks = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None

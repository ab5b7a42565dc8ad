"""Find the layer in which fp16 overflowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .engine import ShardedModel
from .shards import local_part


def overflowed_gradients(sharding: ShardedModel) -> str:
    """Return which gradients are infinite or no numbers, in words.

    The backward pass goes from the top to the bottom, and everything below the layer that
    overflowed is infinite as well, so the topmost such layer is named. All processes must call this
    together.
    """
    named = dict(sharding.module.named_parameters())
    flags = torch.zeros(len(named))
    for number, parameter in enumerate(named.values()):
        if parameter.grad is not None:
            flags[number] = (~local_part(parameter.grad).isfinite()).any()
    wrong = sharding.sum_of_processes(flags).bool().tolist()
    names = [name for name, flag in zip(named, wrong) if flag]
    layers = [name for name in names if ".layers." in name]
    if not names:
        return "the sum of the gradients is too large"
    above = [name for name in named if name not in names and ".layers." not in name]
    top = layers[-1] if layers else names[-1]
    layer = ".".join(top.split(".")[: top.split(".").index("layers") + 2]) if layers else top
    last = [name for name in named if ".layers." in name][-1:]
    if layers and last and last[0].startswith(layer + ".") and not above:
        return f"all {len(names)} gradients, from the output projection or the loss down"
    return f"gradients of {len(names)} parameters, from {layer} down ({top})"


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

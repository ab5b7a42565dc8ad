"""Let fairseq's optimizers change the shards of the parameters that a process holds.

An optimizer gets plain tensors, which share their memory with the sharded parameters: it knows
nothing of processes, and any optimizer that treats each element by itself works.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from fairseq import optim
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..compat.precision import SCALER, load_scaler_state, scaler_state
from ..errors import UserError
from .engine import ShardedModel
from .overflow import overflowed_gradients
from .shards import cut, gather, local_part

logger = logging.getLogger(__name__)


class _OfShards:
    """Mixin for fairseq's optimizers, whose class name stays the same, as checkpoints name it."""

    sharding: ShardedModel
    pairs: list[tuple[nn.Parameter, nn.Parameter]]  # parameter of the model, and of the optimizer
    scaler: DynamicLossScaler | None
    overflowed: bool  # whether the current update is skipped
    losses: list[Tensor]  # of the batches of the current update, if there is a scaler

    def all_reduce_grads(self, module: nn.Module) -> None:
        """Hand the reduced gradients to the optimizer."""
        if module is not self.sharding.module:
            return
        self.sharding.reduce_whole()
        for parameter, own in self.pairs:
            own.grad = None if parameter.grad is None else local_part(parameter.grad)

    def zero_grad(self) -> None:
        """Delete all gradients."""
        super().zero_grad()  # type: ignore[misc]  # of the optimizer
        for parameter in self.sharding.parameters:
            parameter.grad = None
        self.overflowed = False
        self.losses = []

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, in fp16 of the scaled loss."""
        if self.scaler is not None:
            self.losses.append(loss.detach())
            loss = loss * self.scaler.loss_scale
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own

    def multiply_grads(self, c: Any) -> None:
        """Multiply gradients by a factor; in fp16 also remove the scale of the loss."""
        factor = c if self.scaler is None else c / self.scaler.loss_scale
        super().multiply_grads(factor)  # type: ignore[misc]  # of the optimizer

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """Scale gradients so that their norm over all processes is at most ``max_norm``.

        Returns:
            The norm before clipping, fp32.
        """
        grads = [(p, own.grad) for p, own in self.pairs if own.grad is not None]
        counted: dict[torch.device, list[Tensor]] = {}  # with --cpu-offload there may be two
        for parameter, grad in grads:
            if self.sharding.is_counted(parameter) and grad.numel():
                counted.setdefault(grad.device, []).append(grad)
        total = torch.zeros((), dtype=torch.float64, device=self.sharding.device)
        for gradients in counted.values():
            norms = torch.stack(list(torch._foreach_norm(gradients)))
            total += norms.double().square().sum().to(total.device)
        norm = self.sharding.sum_of_processes(total).sqrt().float()
        if self.scaler is not None and not norm.isfinite():
            self.skip_update(norm)
            return torch.zeros_like(norm)
        if max_norm > 0:
            super().multiply_grads(  # type: ignore[misc]  # of the optimizer
                (max_norm / (norm + 1e-6)).clamp(max=1)
            )
        return norm

    def skip_update(self, norm: Tensor) -> None:
        """Lower the scale of the loss and skip this update, and log where it overflowed.

        Raises:
            FloatingPointError: the scale has reached its minimum.
        """
        assert self.scaler is not None
        self.overflowed, before = True, self.scaler.loss_scale
        where = overflowed_gradients(self.sharding)
        try:
            self.scaler.check_overflow(float(norm))
        except OverflowError:
            pass
        finally:
            log = logger.warning if self.sharding.keeps_state else logger.debug
            log(
                f"fp16 overflow, this update is skipped: {where}; loss scale {before:g} -> "
                f"{self.scaler.loss_scale:g}"
            )

    def step(self, closure: Any = None, scale: float = 1.0, groups: Any = None) -> None:
        """Change the parameters, unless gradients overflowed."""
        if self.overflowed:
            return
        super().step(closure, scale, groups)  # type: ignore[misc]  # of the optimizer
        if self.scaler is not None:
            self.scaler.update()

    # ----------------------------------------------------------------------- checkpoints

    def _owners(self) -> list[nn.Parameter]:
        """Return the model's parameters in the order in which a state dict numbers them."""
        owner = {id(own): parameter for parameter, own in self.pairs}
        return [owner[id(p)] for g in self.param_groups for p in g["params"]]  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state on the first process; all processes must call this together."""
        state = super().state_dict()  # type: ignore[misc]  # of the optimizer
        owners, keep = self._owners(), self.sharding.keeps_state
        saving = self.sharding.saving
        if saving is not None:
            state = {**state, "state": saving.take_optimizer(owners, state["state"])}
            return self._with_scale(state)
        whole = {}
        # the processes have the same keys, in the same order
        for number, values in state["state"].items():
            owner = owners[number]
            part = local_part(owner)
            whole[number] = {
                key: gather(value, owner, keep)
                if torch.is_tensor(value) and value.dim() and value.shape == part.shape
                else value
                for key, value in values.items()
            }
        return self._with_scale({**state, "state": whole})

    def _with_scale(self, state: dict[str, Any]) -> dict[str, Any]:
        if self.scaler is None:
            return state
        return {**state, "loss_scale": self.scaler.loss_scale, SCALER: scaler_state(self.scaler)}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: Any = None) -> None:
        """Take the rows of this process from a checkpoint with whole tensors, or from shards."""
        owners = self._owners()
        state_dict = dict(state_dict)
        loading = self.sharding.loading
        if loading is not None:
            state_dict["state"] = loading.optimizer_state(owners, state_dict["state"])
        scale, counts = state_dict.pop("loss_scale", None), state_dict.pop(SCALER, {})
        if scale is not None and self.scaler is not None:
            self.scaler.loss_scale = scale
            load_scaler_state(self.scaler, counts)
        cuts = {}
        for number, values in state_dict["state"].items():
            owner = owners[number] if number < len(owners) else None
            cuts[number] = {
                key: _rows(value, owner)
                if owner is not None and torch.is_tensor(value) and value.shape == owner.shape
                else value
                for key, value in values.items()
            }
        super().load_state_dict({**state_dict, "state": cuts}, optimizer_overrides)  # type: ignore[misc]


def _rows(value: Tensor, owner: nn.Parameter) -> Tensor:
    return local_part(value) if isinstance(value, DTensor) else cut(value, owner)


def build_optimizer(cfg: Any, sharding: ShardedModel, loss_scaler: DynamicLossScaler | None) -> Any:
    """Build the optimizer of a sharded training.

    Args:
        cfg: config of the optimizer.
        sharding: the model; its parameters that require gradients now are trained.
        loss_scaler: scale of the loss, for fp16.

    Raises:
        UserError: the optimizer does not treat each element by itself.
    """
    sharding.divide()
    trained = [p for p in sharding.module.parameters() if p.requires_grad]
    own = [nn.Parameter(local_part(p)) for p in trained]
    optimizer = optim.build_optimizer(cfg, own)
    if not optimizer.supports_flat_params:
        raise UserError(
            f"--optimizer {getattr(cfg, '_name', '')} with --ddp-backend fsdp2: it needs whole "
            "matrices, but a process has only a part of each; use adam, sgd, nag or adamax"
        )
    kind = type(optimizer)
    optimizer.__class__ = type(kind.__name__, (_OfShards, kind), {"__module__": kind.__module__})
    optimizer.sharding, optimizer.pairs = sharding, list(zip(trained, own))
    optimizer.scaler, optimizer.overflowed, optimizer.losses = loss_scaler, False, []
    return optimizer

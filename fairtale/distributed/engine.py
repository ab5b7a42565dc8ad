"""Divide a model among processes with torch's FSDP2 (``fully_shard``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from ..modules.hard_concrete import HardConcreteGate
from .shards import cut, gather, local_part

if TYPE_CHECKING:
    from .shard_state import Loading, Saving

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYERS = "layers"  # name of the lists of layers in this package's and in fairseq's transformers


@dataclass(frozen=True)
class ShardSettings:
    """What is divided, and in which precision the layers compute."""

    stage: int  # 1 to 3, as in ZeRO
    precision: str = "fp32"  # a key of DTYPES; parameters of the optimizer are always fp32
    offload: bool = False  # keep parameters and the optimizer's state in the CPU's memory
    accumulate_locally: bool = False  # reduce gradients once per update


class ShardedModel:
    """A model whose parameters are divided among the processes of a mesh.

    Each layer is divided by itself, and everything else together, so tied embeddings stay tied.
    The gates of heads stay whole in each process, because they are few and are read, fixed and
    penalised outside of the forward pass; :meth:`reduce_whole` averages their gradients.

    The parameters are in fp32. Layers compute with copies in ``settings.precision``, gathered when
    a layer begins. In stages 1 and 2 the copies are kept until the layer's backward pass, in stage
    3 they are gathered again for it. In stage 1, gradients are reduced once per update, in stages 2
    and 3 once per batch.

    Args:
        model: a model on any device; it is changed in place.
        settings: what is divided.
        mesh: the processes.
    """

    def __init__(self, model: nn.Module, settings: ShardSettings, mesh: DeviceMesh) -> None:
        self.settings, self.mesh = settings, mesh
        self.device = torch.device(mesh.device_type)
        if mesh.device_type != "cpu":
            self.device = torch.device(mesh.device_type, torch.get_device_module().current_device())
        self.whole_parameters = [
            p for m in model.modules() if isinstance(m, HardConcreteGate) for p in m.parameters()
        ]
        for parameter in self.whole_parameters:
            parameter.data = parameter.data.to(self.device)
        policy = OffloadPolicy()
        if settings.offload:
            policy = CPUOffloadPolicy(pin_memory=self.device.type != "cpu")
        options: dict[str, Any] = {
            "mesh": mesh,
            "reshard_after_forward": settings.stage == 3,
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=DTYPES[settings.precision], reduce_dtype=torch.float32
            ),
            "offload_policy": policy,
            "ignored_params": set(self.whole_parameters),
        }
        for layer in layers_of(model):
            fully_shard(layer, **options)
        # what is outside of the layers is needed again right after the forward pass, by the loss
        fully_shard(model, **options | {"reshard_after_forward": False})
        self.module, self.model = model, cast(FSDPModule, model)  # the same, with two types
        # FSDP would else do this in the first forward pass, and take a layer that a generator calls
        # by itself for the root
        self.model._get_fsdp_state()._lazy_init()
        self.units = [m for m in model.modules() if isinstance(m, FSDPModule)]
        self.is_whole = False
        self.saving: Saving | None = None  # gets the state instead of gathering it
        self.loading: Loading | None = None  # from which the state comes
        self._trained: list[bool] = []
        self.parameters = list(model.parameters())
        hooked: Any = model
        hooked.register_state_dict_post_hook(partial(self._gather_state))  # a method has no marks
        hooked.register_load_state_dict_pre_hook(self._cut_state)
        vars(model)["no_sync"] = self.accumulating  # called by fairseq's trainer

    # ------------------------------------------------------------ gathering of parameters

    def make_whole(self) -> None:
        """Gather all parameters; they stay so until :meth:`divide` is called.

        A single process can then use the model, for instance to generate.
        """
        if self.settings.stage == 3:
            self.model.set_reshard_after_forward(False)
        for unit in self.units:
            unit.unshard()
        self.is_whole = True

    def divide(self) -> None:
        """Free all gathered parameters."""
        for unit in self.units:
            unit.reshard()
            if self.is_whole and self.settings.stage == 3 and unit is not self.model:
                unit.set_reshard_after_forward(True, recurse=False)
        self.is_whole = False

    def begin_update(self) -> None:
        """Prepare an update, also after parameters were frozen or unfrozen."""
        if self.is_whole:
            self.divide()
        trained = [p.requires_grad for p in self.parameters]
        if trained != self._trained:
            if self._trained:
                for unit in self.units:  # lets FSDP notice it
                    unit.unshard()
                    unit.reshard()
            self._trained = trained

    def begin_batch(self, all_layers: bool = False) -> None:
        """Gather what is outside of the layers, as criterions fetch the output embedding at once.

        Args:
            all_layers: gather the layers as well, for a criterion that generates.
        """
        for unit in self.units if all_layers else [self.model]:
            unit.unshard()

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Run forward and backward pass of a batch that is not the last one of an update."""
        local = self.settings.stage == 1 or self.settings.accumulate_locally
        keeps = self.settings.stage < 3
        self.model.set_is_last_backward(False)
        self.model.set_requires_gradient_sync(not local)
        self.model.set_reshard_after_backward(not keeps)
        try:
            yield
        finally:
            self.model.set_is_last_backward(True)
            self.model.set_requires_gradient_sync(True)
            self.model.set_reshard_after_backward(True)

    # ------------------------------------------------------------------------- gradients

    def reduce_whole(self) -> None:
        """Average the gradients of the parameters that every process has."""
        for parameter in self.whole_parameters:
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad, group=self.mesh.get_group())
                parameter.grad /= self.mesh.size()

    def is_counted(self, parameter: Tensor) -> bool:
        """Return whether this process counts a parameter in sums over all processes."""
        return isinstance(parameter, DTensor) or self.mesh.get_local_rank() == 0

    def sum_of_processes(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on the device of the model."""
        value = value.to(self.device, copy=True)
        torch.distributed.all_reduce(value, group=self.mesh.get_group())
        return value

    # ----------------------------------------------------------------------- checkpoints

    @property
    def keeps_state(self) -> bool:
        """Return whether this process gets gathered state; the others get none."""
        return self.mesh.get_local_rank() == 0

    def _gather_state(
        self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any
    ) -> None:
        if self.saving is not None:
            self.saving.take_model(module, state)
            return
        for key, value in list(state.items()):
            if isinstance(value, DTensor):
                whole = gather(local_part(value), value, self.keeps_state)
                if whole is None:
                    del state[key]
                else:
                    state[key] = whole

    def _cut_state(self, module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Copy the rows of this process into the parameters, from whole tensors or from shards."""
        self.divide()
        for name, own in module.named_parameters(remove_duplicate=False):
            given = state.get(prefix + name)
            if not isinstance(own, DTensor) or given is None or given.shape != own.shape:
                continue  # a tensor of another shape is refused as usual
            if given is not own:
                rows = local_part(given) if isinstance(given, DTensor) else cut(given, own)
                local_part(own).copy_(rows)
                state[prefix + name] = own


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model's transformers, each once."""
    lists = (
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == LAYERS and isinstance(module, nn.ModuleList)
    )
    return list(dict.fromkeys(layer for layers in lists for layer in layers))

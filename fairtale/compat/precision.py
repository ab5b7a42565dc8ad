"""Keep what a training in 16 bits knows beyond 16 bits: in the checkpoint, and on resuming."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from fairseq.optim import AMPOptimizer, FP16Optimizer, MemoryEfficientFP16Optimizer
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.trainer import Trainer
from torch import Tensor, nn

SCALER = "loss_scaler"  # key of the scaler's state in the state of an optimizer
_COUNTS = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")


def cure_lost_precision() -> None:
    """Save the fp32 weights of a training with ``--bf16`` or ``--fp16``, and go on from them.

    The optimizer changes copies of the weights in fp32, and the model gets them rounded. fairseq
    writes the rounded weights to the checkpoint (as fp32 numbers), and a resumed training makes its
    copies from them: changes smaller than the rounding are lost, and most weights of a training in
    many pieces never move. Frozen weights, which have no copy, are saved rounded too. Here the
    checkpoint's weights are the copies, and the weights of frozen parameters as they were loaded.
    The file has the same form and size as before, so fairseq alone can read it. The counters of the
    loss scale are saved as well. Remove this work-around once fairseq saves the fp32 weights.
    """
    build, build_optimizer = Trainer.__init__, Trainer._build_optimizer
    save = Trainer.state_dict

    @functools.wraps(build)
    def __init__(
        self: Any, cfg: Any, task: Any, model: Any, criterion: Any, *args: Any, **kwargs: Any
    ) -> None:
        exact = _Exact([model, criterion])
        build(self, cfg, task, model, criterion, *args, **kwargs)
        self._exact = exact
        exact.follow_loading()

    @functools.wraps(build_optimizer)
    def _build_optimizer(self: Any) -> None:
        build_optimizer(self)
        self._exact.hand_to(self._optimizer)

    @functools.wraps(save)
    def state_dict(self: Any) -> Any:
        state = save(self)
        for part in (state["model"], state["criterion"]):
            self._exact.put_into(part, self.optimizer)
        return state

    Trainer.__init__, Trainer._build_optimizer = __init__, _build_optimizer
    Trainer.state_dict = state_dict
    for kind in (FP16Optimizer, MemoryEfficientFP16Optimizer, AMPOptimizer):
        _keep_scaler(kind)


class _Exact:
    """The fp32 values of parameters that a trainer has rounded to 16 bits.

    Args:
        modules: the model and the criterion, before they are rounded.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        # the tensors that the trainer replaces, by the id of their parameter; no copies
        self.values: dict[int, Tensor] = {id(p): p.data for p in self._parameters()}
        self.loaded: set[int] = set()
        self.rounds = False  # whether the trainer has rounded anything

    def follow_loading(self) -> None:
        """Forget what has not been rounded, and note each value that the model loads from now."""
        rounded = [p for p in self._parameters() if p.dtype in (torch.bfloat16, torch.float16)]
        self.rounds = bool(rounded)
        before, self.values = self.values, {}
        for parameter in rounded:
            value = before.get(id(parameter))
            if value is not None and value.dtype != parameter.dtype:
                self.values[id(parameter)] = value
        if self.rounds:
            for module in self.modules:
                # a hook of torch gets the state after fairseq's upgrade of old checkpoints
                module.register_load_state_dict_pre_hook(self._note)

    def _note(self, module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, parameter in module.named_parameters(remove_duplicate=False):
            value = state.get(prefix + name)
            if torch.is_tensor(value) and value.shape == parameter.shape:
                self.values[id(parameter)] = value
                self.loaded.add(id(parameter))

    def hand_to(self, optimizer: Any) -> None:
        """Give the loaded values to the copies of an optimizer, and forget what is trained."""
        for parameter, copy in _copies(optimizer):
            if id(parameter) in self.loaded:
                copy.copy_(self.values[id(parameter)])
        self.loaded.clear()
        for parameter in self._parameters():
            if parameter.requires_grad:
                self.values.pop(id(parameter), None)

    def put_into(self, state: dict[str, Any] | None, optimizer: Any) -> None:
        """Replace the rounded values in the state dict of a module by the exact ones, in fp32."""
        if not self.rounds or not state:
            return
        copies = {id(parameter): copy for parameter, copy in _copies(optimizer)}
        exact: dict[tuple[int, torch.Size], Tensor] = {}
        for parameter in self._parameters():
            value = copies.get(id(parameter))
            if value is None:
                value = self.values.get(id(parameter))
                if value is None or not _rounds_to(value, parameter.data):
                    continue  # trained without a copy, or changed by something else
            exact[parameter.data_ptr(), parameter.shape] = value
        for name, value in state.items():
            if torch.is_tensor(value) and value.numel():
                state[name] = exact.get((value.data_ptr(), value.shape), value)

    def _parameters(self) -> Iterator[nn.Parameter]:
        for module in self.modules:
            yield from module.parameters()


def _copies(optimizer: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Yield each parameter of an optimizer that changes fp32 copies, and its copy."""
    if not isinstance(optimizer, FP16Optimizer):
        return
    if not optimizer.has_flat_params:
        for parameter, copy in zip(optimizer.fp16_params, optimizer.fp32_params, strict=True):
            yield parameter, copy.data
        return
    offsets = dict.fromkeys(optimizer.fp32_params, 0)  # a flat tensor for each device, by number
    for parameter in optimizer.fp16_params:
        device = parameter.device.index
        start, offsets[device] = offsets[device], offsets[device] + parameter.numel()
        flat = optimizer.fp32_params[device].data
        yield parameter, flat[start : offsets[device]].view_as(parameter)


def _rounds_to(value: Tensor, rounded: Tensor) -> bool:
    return torch.equal(value.to(rounded.device).to(rounded.dtype), rounded)


def scaler_state(scaler: Any) -> dict[str, Any]:
    """Return what determines when a loss scaler changes its scale next."""
    if isinstance(scaler, DynamicLossScaler):
        return {name: getattr(scaler, name) for name in _COUNTS}
    return dict(scaler.state_dict())  # of torch


def load_scaler_state(scaler: Any, state: dict[str, Any]) -> None:
    """Restore the result of :func:`scaler_state`; does nothing with an empty one."""
    if isinstance(scaler, DynamicLossScaler):
        for name in _COUNTS:
            setattr(scaler, name, state.get(name, getattr(scaler, name)))
    elif state:
        scaler.load_state_dict(state)


def _keep_scaler(kind: Any) -> None:
    """Let the optimizers of a class save the whole state of their loss scaler."""
    save, load = kind.state_dict, kind.load_state_dict

    @functools.wraps(save)
    def state_dict(self: Any) -> dict[str, Any]:
        state: dict[str, Any] = save(self)
        if self.scaler is not None:
            state[SCALER] = scaler_state(self.scaler)
        return state

    @functools.wraps(load)
    def load_state_dict(
        self: Any, state_dict: dict[str, Any], optimizer_overrides: Any = None
    ) -> None:
        load(self, state_dict, optimizer_overrides)
        if self.scaler is not None:
            load_scaler_state(self.scaler, state_dict.get(SCALER, {}))

    kind.state_dict, kind.load_state_dict = state_dict, load_state_dict

"""Update all parameters of a GPU in a few kernels, with the arithmetic of fairseq's optimizers.

fairseq starts about a dozen kernels for each parameter in every update: to convert its gradient,
for its norm, for Adam and to convert the result. For a GPT of 22M parameters in bf16, a GPU spends
a quarter of an update on waiting for them. fairseq itself uses NVIDIA's apex if it is installed;
torch has the same operations on lists of tensors. Each element goes through the same operations in
the same order, so the results are equal to the last bit; only the norm is added up in another
order.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from fairseq import utils
from fairseq.optim.adam import Adam
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from torch import Tensor, nn

# Adam needs one more tensor for each parameter of a list; lists of this many elements bound it.
MAX_ELEMENTS = 1 << 25
PLAIN = (Tensor, nn.Parameter)


def is_worthwhile(tensors: Sequence[Tensor]) -> bool:
    """Return whether operations on lists are faster: on a GPU, for several plain tensors."""
    # shards of parameters are another class, and their optimizer has its own operations
    return len(tensors) > 1 and all(t.is_cuda and type(t) in PLAIN for t in tensors)


def install() -> None:
    """Let fairseq's Adam, its optimizers in 16 bits and its norm of gradients work on lists."""
    if hasattr(Adam.step, "works_on_lists"):
        return
    Adam.step = _adam_step(Adam.step)
    mixin = _FP16OptimizerMixin
    mixin._sync_fp16_grads_to_fp32 = _gradients_to_fp32(mixin._sync_fp16_grads_to_fp32)
    mixin._sync_fp32_params_to_fp16 = _parameters_from_fp32(mixin._sync_fp32_params_to_fp16)
    if not utils.multi_tensor_l2norm_available:  # apex is not installed
        utils.multi_tensor_total_norm = total_norm
        utils.clip_grad_norm_ = _clip_grad_norm(utils.clip_grad_norm_)


def _adam_step(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        groups = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        tensors = list(itertools.chain(*groups))
        # the cheapest question first: on a CPU, nothing else is asked
        if (
            closure is not None
            or not is_worthwhile(tensors)
            or any(group.get("amsgrad", False) for group in self.param_groups)
            or not all(_is_fp32(t, t.grad, *_averages(self.state.get(t))) for t in tensors)
        ):
            return original(self, closure)
        for group, parameters in zip(self.param_groups, groups, strict=True):
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter.data)
                    state["exp_avg_sq"] = torch.zeros_like(parameter.data)
                state["step"] += 1
            for together in _lists(parameters, lambda p: self.state[p]["step"]):
                _update(group, together, [self.state[p] for p in together])
        return None

    step.works_on_lists = True  # type: ignore[attr-defined]  # a mark on the function
    return step


def _averages(state: dict[str, Any] | None) -> list[Tensor]:
    return [state["exp_avg"], state["exp_avg_sq"]] if state else []


def _is_fp32(parameter: Tensor, *others: Tensor) -> bool:
    return parameter.dtype == torch.float32 and all(
        x.dtype == torch.float32 and x.device == parameter.device and not x.is_sparse
        for x in others
    )


@torch.no_grad()
def _update(group: dict[str, Any], parameters: list[Tensor], states: list[dict[str, Any]]) -> None:
    """Do what ``Adam.step`` does, for parameters with the same number of steps."""
    gradients = [p.grad for p in parameters if p.grad is not None]  # all have one
    means = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
    beta1, beta2 = group["betas"]
    lr, decay, count = group["lr"], group["weight_decay"], states[0]["step"]
    torch._foreach_mul_(means, beta1)
    torch._foreach_add_(means, gradients, alpha=1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
    divisors = torch._foreach_sqrt(squares)
    torch._foreach_add_(divisors, group["eps"])
    step_size = lr * math.sqrt(1 - beta2**count) / (1 - beta1**count)
    if decay != 0:
        torch._foreach_add_(parameters, parameters, alpha=-decay * lr)
    torch._foreach_addcdiv_(parameters, means, divisors, value=-step_size)


def _lists(tensors: Sequence[Tensor], key: Callable[[Tensor], object]) -> Iterator[list[Tensor]]:
    """Yield lists of tensors with the same key and device, of at most ``MAX_ELEMENTS`` elements."""
    kinds: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((key(tensor), tensor.device), []).append(tensor)
    for alike in kinds.values():
        begin, elements = 0, 0
        for number, tensor in enumerate(alike):
            if number > begin and elements + tensor.numel() > MAX_ELEMENTS:
                yield alike[begin:number]
                begin, elements = number, 0
            elements += tensor.numel()
        yield alike[begin:]


def _gradients_to_fp32(original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def sync(self: Any) -> None:
        if not self._needs_sync or self.has_flat_params or not is_worthwhile(self.fp16_params):
            return original(self)
        copies, gradients = [], []
        for parameter, copy in zip(self.fp16_params, self.fp32_params, strict=True):
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                copy.grad = torch.zeros_like(parameter.data, dtype=torch.float)
                continue
            if copy.grad is None:
                copy.grad = torch.empty_like(parameter.grad.data, dtype=torch.float)
            copies.append(copy.grad.data)
            gradients.append(parameter.grad.data)
        _copy(copies, gradients)
        self._needs_sync = False

    return sync


def _parameters_from_fp32(original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def sync(self: Any) -> None:
        if self.has_flat_params or not is_worthwhile(self.fp16_params):
            return original(self)
        pairs = [
            (parameter.data, copy.data)
            for parameter, copy in zip(self.fp16_params, self.fp32_params, strict=True)
            if parameter.requires_grad
        ]
        _copy([parameter for parameter, _ in pairs], [copy for _, copy in pairs])

    return sync


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients together, fp32, on the device of the first one."""
    norms: list[Tensor] = []
    for alike in _lists(gradients, lambda g: g.dtype):
        norms += torch._foreach_norm(alike, 2, dtype=torch.float32)
    device = gradients[0].device
    return torch.stack([norm.to(device) for norm in norms]).norm()


def _clip_grad_norm(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(original)
    def clip_grad_norm_(params: Any, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        listed = [params] if isinstance(params, Tensor) else list(params)
        gradients = [p.grad for p in listed if p is not None and p.grad is not None]
        # fairseq chooses multi_tensor_total_norm by this variable
        utils.multi_tensor_l2norm_available = is_worthwhile(gradients)
        try:
            return original(listed, max_norm, aggregate_norm_fn)
        finally:
            utils.multi_tensor_l2norm_available = False

    return clip_grad_norm_

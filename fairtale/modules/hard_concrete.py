"""Hard concrete gates for attention heads, which are learned, fixed or left open."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import UserError

# Values of the buffer ``fixed``.
LEARNED, CLOSED, OPEN, UNTOUCHED = -1, 0, 1, 2


class KeepsFP32(nn.Module):
    """A module whose parameters and buffers stay in fp32 with ``--fp16`` and ``--bf16``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_fp32(x: Tensor) -> Tensor:
            y = fn(x)
            halved = y.dtype in (torch.float16, torch.bfloat16)
            return x.to(device=y.device, dtype=torch.float32) if halved else y

        return super()._apply(keep_fp32, recurse)  # type: ignore[no-untyped-call]  # torch's own


class HardConcreteGate(KeepsFP32):
    """Gates in [0, 1], one for each head, that are exactly 0 or 1 with positive probability.

    In training, a gate is ``min(1, max(0, s * (high - low) + low))`` with
    ``s = sigmoid((log u - log(1 - u) + log_alpha) / temperature)``, where u is uniform in (0, 1)
    and sampled for each head in each call. In evaluation, s is ``sigmoid(log_alpha)``.
    Source: Louizos et al. 2018, equations 10 to 13; for heads, Voita et al. 2019.

    Gates have one of three states, which checkpoints store (buffer ``fixed``, int8 [H]):
    *learned*, as above; *fixed* to 0 or 1, see :meth:`fix`; or *untouched*, which means exactly 1
    also in training, until :meth:`learn` is called. New gates are learned.

    ``log_alpha`` [H] is a parameter multiplied by ``lr_scale``. With Adam, whose step size does not
    depend on the size of gradients, gates thus change ``lr_scale`` times faster than weights.
    Checkpoints store ``log_alpha`` itself. Gates are computed in fp32 even if weights are in half
    precision.

    Args:
        num_heads: H, at least 0.
        temperature: above 0; with smaller values, gates are exactly 0 or 1 more often.
        low: lower end of the stretched s, below 0.
        high: upper end of the stretched s, above 1.
        init_log_alpha: initial ``log_alpha`` of every head; from 2.4 on, a gate is exactly 1 in
            evaluation.
        lr_scale: above 0; checkpoints are exact if it is a power of two.

    Raises:
        UserError: an argument is out of range.
    """

    fixed: Tensor

    def __init__(
        self,
        num_heads: int,
        temperature: float = 0.33,
        low: float = -0.1,
        high: float = 1.1,
        init_log_alpha: float = 2.5,
        lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"--gate-temperature {temperature}: must be above 0; 0.33 is usual")
        if not (low < 0 and high > 1):
            raise UserError(
                f"--gate-low {low} --gate-high {high}: low must be below 0 and high above 1, so "
                "that gates can close and open; -0.1 and 1.1 are usual"
            )
        if not (lr_scale > 0 and math.isfinite(init_log_alpha)):
            raise UserError(
                f"--gate-lr-scale {lr_scale} --gate-init-log-alpha {init_log_alpha}: the scale "
                "must be above 0, and log-alpha must be finite"
            )
        self.num_heads = num_heads
        self.temperature, self.low, self.high = temperature, low, high
        self.init_log_alpha, self.lr_scale = init_log_alpha, lr_scale
        self.scaled_log_alpha = nn.Parameter(torch.full((num_heads,), init_log_alpha / lr_scale))
        self.register_buffer("fixed", torch.full((num_heads,), LEARNED, dtype=torch.int8))
        self._state = "learned"  # same as the buffer, but readable without waiting for a GPU
        self.pull: Tensor | None = None  # see fairtale.modules.gate_budget.competing

    def extra_repr(self) -> str:
        return f"{self.num_heads}, {self.state}, temperature={self.temperature}"

    @property
    def log_alpha(self) -> Tensor:
        """Return the location of the distribution [H]; see :meth:`set_log_alpha`."""
        return self.scaled_log_alpha * self.lr_scale

    @torch.no_grad()
    def set_log_alpha(self, value: float | Tensor) -> None:
        """Set ``log_alpha`` to one value for all heads, or to a value for each head [H]."""
        own = self.scaled_log_alpha
        value = torch.as_tensor(value, dtype=own.dtype, device=own.device)
        self.scaled_log_alpha.copy_(value / self.lr_scale)

    # ------------------------------------------------------------------------ states

    @property
    def state(self) -> str:
        """Return ``learned``, ``fixed`` or ``untouched``."""
        return self._state

    @property
    def is_fixed(self) -> bool:
        """Whether the gates are fixed to 0 or 1."""
        return self._state == "fixed"

    @torch.no_grad()
    def fix(self, mask: Tensor | list[bool]) -> None:
        """Fix each gate to 0 or 1.

        Args:
            mask: bool [H], True for an open gate.
        """
        mask = torch.as_tensor(mask, device=self.fixed.device)
        self.fixed.copy_(mask.bool().to(torch.int8))
        self._state = "fixed"

    def learn(self) -> None:
        """Make the gates learned, starting from their current ``log_alpha``."""
        self.fixed.fill_(LEARNED)
        self._state = "learned"

    def leave_open(self) -> None:
        """Make the gates untouched, that is 1, as in a model without gates."""
        self.fixed.fill_(UNTOUCHED)
        self._state = "untouched"

    # ------------------------------------------------------------------------ values

    def forward(self) -> Tensor:
        """Return the gates [H] in fp32, sampled in training and deterministic in evaluation."""
        if self._state != "learned":
            # the zero term gives the parameter a gradient, as DistributedDataParallel requires
            return self.value() + 0 * self.scaled_log_alpha
        if not self.training:
            return self.value()
        # u may be 0; s and its gradient are then 0 as well
        noise = torch.logit(torch.rand_like(self.scaled_log_alpha))
        log_alpha = self.log_alpha if self.pull is None else self.log_alpha - self.pull
        return self._stretch(torch.sigmoid((noise + log_alpha) / self.temperature))

    def value(self) -> Tensor:
        """Return the gates [H] as used in evaluation."""
        if self._state != "learned":
            return (self.fixed > 0).to(self.scaled_log_alpha.dtype)
        return self._stretch(torch.sigmoid(self.log_alpha))

    def open_probability(self) -> Tensor:
        """Return the probability [H] that each gate is not 0; it is 0 or 1 unless learned."""
        if self._state != "learned":
            return self.value()
        return torch.sigmoid(self.log_alpha - self.closing_log_alpha)

    @property
    def closing_log_alpha(self) -> float:
        """Return the ``log_alpha`` at which P(open) is one half."""
        return self.temperature * math.log(-self.low / self.high)

    def _stretch(self, s: Tensor) -> Tensor:
        return (s * (self.high - self.low) + self.low).clamp(0.0, 1.0)

    # ------------------------------------------------------------------- checkpoints

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        log_alpha = self.log_alpha
        destination[prefix + "log_alpha"] = log_alpha if keep_vars else log_alpha.detach()
        destination[prefix + "fixed"] = self.fixed

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name, set_value in (("log_alpha", self.set_log_alpha), ("fixed", self._set_fixed)):
            value = state_dict.get(prefix + name)
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != self.fixed.shape:
                raise UserError(
                    f"the checkpoint has {value.numel()} gates at {prefix}{name}, but the model "
                    f"has {self.num_heads} heads there: build the model with as many heads as the "
                    "checkpoint was trained with"
                )
            else:
                set_value(value)
        known = {prefix + "log_alpha", prefix + "fixed"}
        unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]

    @torch.no_grad()
    def _set_fixed(self, value: Tensor) -> None:
        self.fixed.copy_(value)
        if bool((value == LEARNED).all()):
            self._state = "learned"
        else:
            self._state = "untouched" if bool((value == UNTOUCHED).any()) else "fixed"

"""Compute the penalty on open gates, and keep the expected number of open gates at a target."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .hard_concrete import HardConcreteGate

# Limits on the expected share of open gates, because P(open) never reaches 0 or 1.
_LEAST, _MOST = 0.01, 0.99


def expected_open(gates: dict[str, HardConcreteGate]) -> dict[str, Tensor]:
    """Return the expected number of open heads of each attention, under the keys of ``gates``."""
    return {key: gate.open_probability().sum() for key, gate in gates.items()}


def mean_by_type(gates: dict[str, HardConcreteGate], expected: dict[str, Tensor]) -> Tensor:
    """Return the mean P(open) of the heads of each attention type, summed over the types.

    The mean is over all heads in all layers of a type. The penalty is hence independent of the
    number of layers and heads, but grows with the number of gated types.

    Args:
        gates: gates by attention.
        expected: expected numbers of open heads, from :func:`expected_open`.
    """
    total = torch.zeros((), device=next(iter(expected.values())).device)
    for kind in dict.fromkeys(key.split(".")[0] for key in gates):
        keys = [key for key in gates if key.split(".")[0] == kind]
        heads = sum(gates[key].num_heads for key in keys)
        total = total + sum(expected[key] for key in keys) / heads
    return total


@torch.no_grad()
def hold_expected(gates: dict[str, HardConcreteGate], target: float) -> float:
    """Shift all log-alphas by the same amount, so that ``target`` heads are expected to be open.

    The shift is the Lagrange multiplier of the constraint: ``p = sigmoid(a - shift)`` maximises
    ``sum(a * p) + entropy(p)`` under ``sum(p) = N``. It is computed directly instead of by gradient
    ascent (Wang et al. 2020; Xia et al. 2022). For gradient ascent to keep the number, its loss
    term must be hundreds of times larger than the effect of a single head on the loss. An
    optimizer that normalises gradients, such as Adam, then hardly distinguishes heads.

    Args:
        gates: learned gates.
        target: expected number of open heads; clamped to 1 to 99 % of the heads.

    Returns:
        The amount subtracted from every log-alpha.
    """
    logits = torch.cat([gate.log_alpha - gate.closing_log_alpha for gate in gates.values()])
    logits = logits.double().cpu()
    heads = logits.numel()
    target = min(max(float(target), _LEAST * heads), _MOST * heads)
    if abs(float(torch.sigmoid(logits).sum()) - target) < 1e-6 * heads:
        return 0.0  # change nothing, so that resuming a training is reproducible to the last bit
    low, high = float(logits.min()) - 10.0, float(logits.max()) + 10.0
    for _ in range(60):  # bisection to the precision of fp32
        middle = (low + high) / 2
        if torch.sigmoid(logits - middle).sum() > target:
            low = middle
        else:
            high = middle
    shift = (low + high) / 2
    for gate in gates.values():
        gate.set_log_alpha(gate.log_alpha - shift)
    return shift


@contextlib.contextmanager
def competing(gates: dict[str, HardConcreteGate]) -> Iterator[None]:
    """Within this block, project the gradients of gates onto a fixed number of open heads.

    The loss alone would open every head a little more. With a fixed number of open heads, only
    differences between heads matter. The gradient g by the log-alphas is therefore replaced by
    ``g - w * sum(g)``, where w is ``p * (1 - p)`` divided by its sum. This is the gradient through
    :func:`hold_expected`. The values of gates are unchanged.

    Args:
        gates: learned gates.
    """
    with torch.no_grad():
        chances = {key: gate.open_probability() for key, gate in gates.items()}
        widths = {key: p * (1 - p) for key, p in chances.items()}
        total = sum((width.sum() for width in widths.values()), torch.tensor(0.0))
        total = total.clamp_min(1e-20)
    pull = torch.tensor(0.0)
    for key, gate in gates.items():
        log_alpha = gate.log_alpha
        pull = pull + (widths[key] / total * (log_alpha - log_alpha.detach())).sum()
    for gate in gates.values():
        gate.pull = pull
    try:
        yield
    finally:
        for gate in gates.values():
            gate.pull = None


def ramp(start: float, end: float, update: int, num_updates: int) -> float:
    """Interpolate linearly from ``start`` to ``end``.

    Args:
        start: value at update 0.
        end: value at ``num_updates`` and later.
        update: number of finished updates.
        num_updates: number of updates of the ramp; 0 for ``end`` at all times.
    """
    if num_updates <= 0 or update >= num_updates:
        return end
    return start + (end - start) * update / num_updates

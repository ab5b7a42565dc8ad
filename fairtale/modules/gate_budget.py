"""The penalty on open gates, and how the number of open gates is held."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .hard_concrete import HardConcreteGate

# Of H learned gates between these shares are expected open: P(open) of 0 or 1 is never reached.
_LEAST, _MOST = 0.01, 0.99


def expected_open(gates: dict[str, HardConcreteGate]) -> dict[str, Tensor]:
    """Return the expected number of open heads of each layer, keyed as ``gates``."""
    return {key: gate.open_probability().sum() for key, gate in gates.items()}


def mean_by_type(gates: dict[str, HardConcreteGate], expected: dict[str, Tensor]) -> Tensor:
    """Return the sum over attention types of the mean P(open) of the type's heads.

    The mean is over all heads of all layers of a type, so the penalty grows neither with layers
    nor with heads; it does with a second gated type.
    """
    total = torch.zeros((), device=next(iter(expected.values())).device)
    for kind in dict.fromkeys(key.split(".")[0] for key in gates):
        keys = [key for key in gates if key.split(".")[0] == kind]
        heads = sum(gates[key].num_heads for key in keys)
        total = total + sum(expected[key] for key in keys) / heads
    return total


@torch.no_grad()
def hold_expected(gates: dict[str, HardConcreteGate], target: float) -> float:
    """Make the expected number of open heads ``target``, by one shift of all log-alphas.

    The shift is the Lagrange multiplier of the constraint: ``p = sigmoid(a - shift)`` maximises
    ``sum(a * p) + entropy(p)`` under ``sum(p) = N``. It is solved for, instead of being
    approached by gradient ascent (Wang et al. 2020; Xia et al. 2022): to hold the number, the
    term of an ascent must be hundreds of times larger than the effect of a single head on the
    loss, and an optimizer that divides by the size of gradients then hardly tells heads apart.

    Args:
        gates: learned ones, with P(open) as their module defines it.
        target: heads; clamped to 1 to 99 % of them.

    Returns:
        The number subtracted from every log-alpha.
    """
    logits = torch.cat([gate.log_alpha - gate.closing_log_alpha for gate in gates.values()])
    logits = logits.double().cpu()
    heads = logits.numel()
    target = min(max(float(target), _LEAST * heads), _MOST * heads)
    if abs(float(torch.sigmoid(logits).sum()) - target) < 1e-6 * heads:
        return 0.0  # held already: not even a last bit may change when training is resumed
    low, high = float(logits.min()) - 10.0, float(logits.max()) + 10.0
    for _ in range(60):  # to the last bit of fp32
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
    """Within this block, let the gradient that opens one gate close the others.

    The loss would open every head a little more. Where the number of open heads is held, only
    differences between heads count, so the gradient g by the log-alphas loses its part across
    the constraint: it becomes ``g - w * sum(g)``, where w is ``p * (1 - p)`` divided by its sum.
    That is what differentiating :func:`hold_expected` would give. Values are unchanged.
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
    """Return the value at ``update`` of a line from ``start`` to ``end``, held after its end.

    Args:
        num_updates: the update from which on it is ``end``.
    """
    if num_updates <= 0 or update >= num_updates:
        return end
    return start + (end - start) * update / num_updates

"""What open gates cost, or how many may be open."""

import contextlib

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

    The mean is over all heads of all layers of a type, so neither more layers nor more heads
    make gates dearer altogether; a second gated type does.
    """
    total = torch.zeros((), device=next(iter(expected.values())).device)
    for kind in dict.fromkeys(key.split(".")[0] for key in gates):
        keys = [key for key in gates if key.split(".")[0] == kind]
        heads = sum(gates[key].num_heads for key in keys)
        total = total + sum(expected[key] for key in keys) / heads
    return total


@torch.no_grad()
def hold_expected(gates: dict[str, HardConcreteGate], target: float) -> float:
    """Let exactly ``target`` heads be expected open, by one shift of all log-alphas.

    The shift is the Lagrange multiplier of the constraint: the gates of largest entropy that
    earn most, ``max sum(a * p) + entropy(p)`` with ``sum(p) = N``, are ``p = sigmoid(a - shift)``.
    It is solved for, instead of being approached by ascent (Wang et al. 2020; Xia et al. 2022):
    an ascent's term must be stiff to hold the number, is hundreds of times larger than what a
    single head is worth, and an optimizer that divides by the size of gradients then hardly
    sees which heads the task wants.

    Args:
        gates: learned ones, with P(open) as their module defines it.
        target: clamped to 1 to 99 % of the heads.

    Returns:
        what was taken from every log-alpha.
    """
    logits = torch.cat([gate.log_alpha - gate.closing_log_alpha for gate in gates.values()])
    logits = logits.double().cpu()
    heads = logits.numel()
    target = min(max(float(target), _LEAST * heads), _MOST * heads)
    if abs(float(torch.sigmoid(logits).sum()) - target) < 1e-6 * heads:
        return 0.0  # held already; not even a last bit is to change when training is resumed
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
def competing(gates: dict[str, HardConcreteGate]):
    """Within this, a gate is drawn so that what opens it closes the others.

    The task wants every head open a little more. Under a constraint only what sets it apart
    counts: the gradient by log-alphas a is freed of its part across the constraint,
    ``g - w * sum(g)`` with ``w = p * (1 - p)``, summing to 1. It is what :func:`hold_expected`
    would do to it if that were differentiated. Values are unchanged.
    """
    with torch.no_grad():
        chances = {key: gate.open_probability() for key, gate in gates.items()}
        widths = {key: p * (1 - p) for key, p in chances.items()}
        total = sum(width.sum() for width in widths.values()).clamp_min(1e-20)
    pull = 0.0
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
    """Go from ``start`` at update 0 to ``end`` at ``num_updates``, linearly, and stay there."""
    if num_updates <= 0 or update >= num_updates:
        return end
    return start + (end - start) * update / num_updates

"""What open gates cost: a price for each, or a Lagrangian that leaves so many open."""

import torch
from torch import Tensor, nn

from .hard_concrete import HardConcreteGate, KeepsFP32

_BACK = 5.0  # how much faster a price comes down than it went up


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


class GateBudget(KeepsFP32, nn.Module):
    """Lagrange multipliers that hold the expected number E of open heads at a target N.

    The term is ``m1 * (E - N) + m2 * (E - N)^2``, to be minimised by the gates and maximised
    by the multipliers. m1 is the price of a head, in nats per token. With H heads and
    ``g = (E - N) / H`` each update adds ``rate * g`` to m1, five times that while it takes m1
    back to 0, and ``rate * |g|`` to m2.
    Source: Wang et al. 2020, section 3.2; Xia et al. 2022, section 3. Deviations: steps of
    plain ascent, which all workers compute alike from the gates alone; ``|g|`` for ``g^2`` and
    the factor five, since gates are slow to follow: E would fall far below N, and with it
    every head, before the price is down again.

    The multipliers are a buffer, fp32 [2], of the model: they come with its checkpoints.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("multipliers", torch.zeros(2))

    def reset(self) -> None:
        """Begin anew, with heads that cost nothing."""
        self.multipliers.zero_()

    def term(self, gap: Tensor) -> Tensor:
        """Return the term of the loss, in nats per token, for ``gap`` = E - N."""
        # A copy, since ascent changes the buffer that backward would read.
        first, second = self.multipliers.clone()
        return first * gap + second * gap.square()

    @torch.no_grad()
    def ascend(self, gap: Tensor, num_heads: int, rate: float) -> None:
        """Raise the price where too many heads are open, lower it where too few are."""
        share = gap.detach() / num_heads
        back = share * self.multipliers[0] < 0
        step = torch.where(back, _BACK * share, share)
        self.multipliers += rate * torch.stack([step, share.abs()])


def ramp(start: float, end: float, update: int, num_updates: int) -> float:
    """Go from ``start`` at update 0 to ``end`` at ``num_updates``, linearly, and stay there."""
    if num_updates <= 0 or update >= num_updates:
        return end
    return start + (end - start) * update / num_updates

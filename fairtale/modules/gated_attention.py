"""fairseq's attention with a gate for each head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from .hard_concrete import HardConcreteGate
from .narrow_attention import NarrowAttention


@contextlib.contextmanager
def scaled_heads(projection: nn.Linear, gates: Tensor) -> Iterator[None]:
    """Within this block, multiply what each head gives to an output projection by its gate.

    The gates go into the weight, since fairseq gives ``out_proj.weight`` to torch's
    ``F.multi_head_attention_forward`` in one of its ways, and calls ``out_proj`` in the other. The
    attribute ``weight`` of the instance is the scaled weight for the length of the block, and
    hides the parameter of the same name; gradients flow to that parameter and to the gates. With
    gates of exactly 1 it is the same weight, bit for bit.

    Args:
        projection: of the heads' outputs one after another, weight [C, H * D].
        gates: [H].
    """
    columns = gates.repeat_interleave(projection.in_features // gates.numel())
    # vars, since torch lets nothing but a parameter be assigned to the name of a parameter
    vars(projection)["weight"] = projection.weight * columns.to(projection.weight.dtype)
    try:
        yield
    finally:
        del vars(projection)["weight"]


class _Gated(nn.Module):
    """An attention that multiplies each head's output by its gate, drawn once a call."""

    gate: HardConcreteGate

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Attend with gates drawn or fixed; arguments and results are the parent's."""
        with scaled_heads(cast(nn.Linear, self.out_proj), self.gate()):
            return super().forward(*args, **kwargs)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Add gates, open, to a state dict that has none."""
        parent = super()
        if hasattr(parent, "upgrade_state_dict_named"):
            parent.upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}.gate." if name else "gate."
        if prefix + "log_alpha" not in state_dict:
            fresh = HardConcreteGate(self.gate.num_heads, init_log_alpha=self.gate.init_log_alpha)
            fresh.leave_open()
            state_dict.update(fresh.state_dict(prefix=prefix))


class GatedAttention(_Gated, MultiheadAttention):
    """fairseq's multi-head attention with a gate for each head.

    Source: Voita et al. 2019, section 5.1. It computes as fairseq does, in each of its ways
    (full and incremental, with weights and without).

    Args:
        embed_dim: C.
        num_heads: H.
        gate: the gates, H of them.
        options: those of :class:`~fairseq.modules.MultiheadAttention`, without quantisation
            noise.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, gate: HardConcreteGate, **options: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, **options)
        self.gate = gate


class GatedNarrowAttention(_Gated, NarrowAttention):
    """The attention of a pruned layer, gated again, to be pruned further.

    Args:
        embed_dim: C.
        num_heads: H, at least 1.
        head_dim: D.
        gate: the gates, H of them.
        options: those of :class:`~fairtale.modules.narrow_attention.NarrowAttention`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, head_dim: int, gate: HardConcreteGate, **options: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, head_dim, **options)
        self.gate = gate

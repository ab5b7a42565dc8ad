"""Add a gate for each head to fairseq's attention."""

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
    """Within this block, multiply the input of an output projection from each head by its gate.

    The gates scale the weight, because fairseq either passes ``out_proj.weight`` to torch's
    ``F.multi_head_attention_forward`` or calls ``out_proj``. Within the block, the instance
    attribute ``weight`` is the scaled weight and hides the parameter of the same name. Gradients
    flow to the parameter and to the gates. With gates of exactly 1, the weight is bitwise the same.

    Args:
        projection: projection of the concatenated outputs of the heads, weight [C, H * D].
        gates: [H].
    """
    columns = gates.repeat_interleave(projection.in_features // gates.numel())
    # use vars, because torch allows only parameters to be assigned to the name of a parameter
    vars(projection)["weight"] = projection.weight * columns.to(projection.weight.dtype)
    try:
        yield
    finally:
        del vars(projection)["weight"]


class _Gated(nn.Module):
    """Mixin for attentions that multiplies the output of each head by its gate.

    In training, the gates are sampled once for each call.
    """

    gate: HardConcreteGate

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Attend with gates; arguments and results are those of the attention."""
        with scaled_heads(cast(nn.Linear, self.out_proj), self.gate()):
            return super().forward(*args, **kwargs)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Add open gates to a state dict without gates."""
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

    Source: Voita et al. 2019, section 5.1. The computation is fairseq's in each of its modes (full
    and incremental, with and without attention weights).

    Args:
        embed_dim: C.
        num_heads: H.
        gate: module of the H gates.
        options: options of :class:`~fairseq.modules.MultiheadAttention`, except quantisation
            noise.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, gate: HardConcreteGate, **options: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, **options)
        self.gate = gate


class GatedNarrowAttention(_Gated, NarrowAttention):
    """Attention of a pruned layer with a gate for each remaining head, for further pruning.

    Args:
        embed_dim: C.
        num_heads: H, at least 1.
        head_dim: D.
        gate: module of the H gates.
        options: options of :class:`~fairtale.modules.narrow_attention.NarrowAttention`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, head_dim: int, gate: HardConcreteGate, **options: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, head_dim, **options)
        self.gate = gate

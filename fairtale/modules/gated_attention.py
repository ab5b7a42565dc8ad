"""fairseq's attention with a gate for each head."""

import contextlib

from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from .hard_concrete import HardConcreteGate
from .narrow_attention import NarrowAttention


class GatedProjection(nn.Linear):
    """A projection of concatenated heads whose weight can be seen scaled, head by head.

    Within :meth:`scaled`, ``weight`` [C, H * D] has its columns multiplied by the gates of
    their heads, wherever it is read: in this module's forward, or by
    ``F.multi_head_attention_forward``, which is given ``out_proj.weight``. With gates of
    exactly 1 it is the same weight, bit for bit.
    """

    @contextlib.contextmanager
    def scaled(self, gates: Tensor):
        """Scale the weight by ``gates`` [H] for a while."""
        columns = gates.repeat_interleave(self.in_features // gates.numel())
        self.__dict__["_columns"] = columns.to(super().__getattr__("weight").dtype)
        try:
            yield
        finally:
            del self.__dict__["_columns"]

    def __getattr__(self, name):
        # parameters are found here, being no ordinary attributes
        value = super().__getattr__(name)
        if name == "weight" and "_columns" in self.__dict__:
            return value * self._columns
        return value


class _Gated:
    """An attention that multiplies each head's output by its gate; drawn once a call."""

    def _add_gate(self, gate: HardConcreteGate) -> None:
        plain = self.out_proj
        # on no device: it takes over the parameters, and draws no random numbers
        self.out_proj = GatedProjection(plain.in_features, plain.out_features, device="meta")
        self.out_proj.weight, self.out_proj.bias = plain.weight, plain.bias
        self.gate = gate

    def forward(self, *args, **kwargs):
        """Attend with gates drawn or fixed; arguments and results are the parent's."""
        with self.out_proj.scaled(self.gate()):
            return super().forward(*args, **kwargs)

    def upgrade_state_dict_named(self, state_dict, name):
        """Add gates, open, to a state dict that has none."""
        if hasattr(super(), "upgrade_state_dict_named"):
            super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}.gate." if name else "gate."
        if prefix + "log_alpha" not in state_dict:
            fresh = HardConcreteGate(self.gate.num_heads, init_log_alpha=self.gate.init_log_alpha)
            fresh.leave_open()
            state_dict.update(fresh.state_dict(prefix=prefix))


class GatedAttention(_Gated, MultiheadAttention):
    """fairseq's multi-head attention with a gate for each head.

    Source: Voita et al. 2019, section 5.1. Computes just as fairseq does, in each of its
    ways (full and incremental, with weights and without).

    Args:
        embed_dim: C.
        num_heads: H.
        gate: the gates, H of them.
        options: those of :class:`~fairseq.modules.MultiheadAttention`, without quantisation
            noise.
    """

    def __init__(self, embed_dim: int, num_heads: int, gate: HardConcreteGate, **options):
        super().__init__(embed_dim, num_heads, **options)
        self._add_gate(gate)


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
        self, embed_dim: int, num_heads: int, head_dim: int, gate: HardConcreteGate, **options
    ):
        super().__init__(embed_dim, num_heads, head_dim, **options)
        self._add_gate(gate)

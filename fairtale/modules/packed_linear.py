"""Compute products of few rows on a CPU with weights that oneDNN has rearranged beforehand.

MKL rearranges the weights in every product of more than three rows, which takes longer than the
product itself. Rearranged once, they are read as they are. Besides, oneDNN then rounds one row as
it rounds many (see :mod:`~fairtale.modules.same_rounding`), so that a row need not be padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import mkldnn

from .fast_gemm import CPUINFO
from .prefix_transformer import PrefixTransformer

_ROWS = 16  # the number of rows for which the weights are rearranged; others work as well


class PackedLinear(nn.Module):
    """A linear layer without gradients.

    Args:
        weight: fp32 [out, in] on a CPU.
        bias: fp32 [out].
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        pack: Any = torch.ops.mkldnn._reorder_linear_weight
        self.register_buffer("weight", pack(weight.detach(), _ROWS), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for an input [..., in]."""
        multiply: Any = torch.ops.mkldnn._linear_pointwise
        y: Tensor = multiply(x, self.weight, self.bias, "none", [], "")
        return y


def can_pack(weight: Tensor) -> bool:
    """Return whether :class:`PackedLinear` takes a weight, and is faster than MKL.

    On Intel's processors, where MKL has its best kernels, it has not been measured.
    """
    is_onednn = bool(mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch's own
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    if not (is_onednn and on_cpu and CPUINFO.exists()):
        return False
    cpuinfo = CPUINFO.read_text()
    return "vendor_id" in cpuinfo and "GenuineIntel" not in cpuinfo


def pack_layers(transformer: PrefixTransformer) -> None:
    """Replace the linear layers of a transformer, but for adapters; it can be trained no more."""
    for layer in transformer.layers:
        for parent in layer.modules():
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, PackedLinear(child.weight, child.bias))

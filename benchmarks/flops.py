"""Model FLOPs of training and generation, and the peaks of GPUs that they are compared with.

Nothing here needs torch. As in PaLM (Chowdhery et al. 2022, appendix B), the model FLOPs are those
of the matrix products that a text needs; what is computed beside them or twice does not count.
"""

import re
from collections.abc import Sequence
from typing import Any

# Peaks of dense products in FLOP/s, fp32 accumulation, from NVIDIA's data sheets (which also give
# twice as much for products with structured sparsity, and for the RTX 4090 twice as much with fp16
# accumulation, which torch does not use). A T4 has no bf16 units.
PEAKS = {
    r"\bH200\b(?! NVL)": {"bf16": 989e12, "fp16": 989e12},
    r"\bH100\b(?! PCIe| NVL)": {"bf16": 989e12, "fp16": 989e12},
    r"\bH100 PCIe\b": {"bf16": 756e12, "fp16": 756e12},
    r"\bH[12]00 NVL\b": {"bf16": 835e12, "fp16": 835e12},
    r"\bA100\b": {"bf16": 312e12, "fp16": 312e12},
    r"\bL4\b": {"bf16": 121e12, "fp16": 121e12},
    r"\bT4\b": {"fp16": 65e12},
    r"\bRTX 4090$": {"bf16": 165e12, "fp16": 165e12},
}


def data_sheet_peak(name: str, precision: str) -> float:
    """Return the peak of dense products of a GPU in FLOP/s, or 0 if it is not in the table.

    Args:
        name: the GPU's name, as torch gives it. A part of a GPU (MIG) is not in the table.
        precision: bf16, fp16 or fp32.
    """
    if re.search(r"\bMIG\b", name):
        return 0.0
    for pattern, peaks in PEAKS.items():
        if re.search(pattern, name):
            return peaks.get(precision, 0.0)
    return 0.0


def product_sizes(vocab: int, shape: Any) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of every linear layer and of the projection to the vocabulary.

    Args:
        vocab: V.
        shape: has ``width`` C, ``inner`` (of the feed-forward layers) and ``layers`` L.
    """
    width, inner = shape.width, shape.inner
    layer = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
    return layer * shape.layers + [(width, vocab)]


def training_flops(vocab: int, shape: Any, rows: int, length: int) -> tuple[float, float]:
    """Return the FLOPs of the products of one update, without and with those of attention.

    Attention is counted as if it were not causal, as in PaLM.

    Args:
        vocab: V.
        shape: see :func:`product_sizes`.
        rows: B, rows of an update.
        length: T, tokens of each row.
    """
    tokens = rows * length
    products = sum(3 * 2 * tokens * i * o for i, o in product_sizes(vocab, shape))
    return products, products + 12 * shape.layers * shape.width * length * tokens


def generation_flops(
    vocab: int, shape: Any, prompts: Sequence[int], new_tokens: int, beam: int = 1
) -> float:
    """Return the FLOPs of the products that generation needs, with attention to what was before.

    Each prompt is computed once, and each new token of each hypothesis once. Only the last token of
    a prompt and the new tokens but the last are projected to the vocabulary.

    Args:
        vocab: V.
        shape: see :func:`product_sizes`.
        prompts: tokens of each prompt, with the beginning of the sentence.
        new_tokens: tokens generated for each prompt.
        beam: hypotheses that are computed for each prompt.
    """
    *layers, (width, _) = product_sizes(vocab, shape)
    of_a_token = sum(2 * i * o for i, o in layers)
    total = 0.0
    for length in prompts:
        # the token at position p (from 0) attends to p + 1 tokens
        own = sum(range(1, length + 1))
        after = sum(range(length + 1, length + new_tokens))
        attended = own + beam * after
        computed = length + beam * (new_tokens - 1)
        total += computed * of_a_token + 4 * shape.layers * shape.width * attended
        total += (1 + beam * (new_tokens - 1)) * 2 * width * vocab
    return total


def utilisation(flops: float, seconds: float, peak: float) -> str:
    """Return the share of the peak as text, or nothing if the peak is 0, that is unknown."""
    return f"{flops / seconds / peak:.1%}" if peak else ""

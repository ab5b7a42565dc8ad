"""Find batch sizes for which a computation rounds every row in the same way.

A library of matrix products chooses its kernel, and with it the order in which it adds, by the
sizes of the matrices. A text that is written together with others would then differ in the last
digit from the same text written alone, and sometimes in a token. But the kernels of many sizes add
in the same order. This module finds them by trying: the order does not depend on the numbers, and
thousands of random numbers would show another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Sizes:
    """Batch sizes that round alike; batches are filled up to one of them, or are split.

    Args:
        sizes: the sizes, at least one.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sorted(sizes)

    def fitting(self, count: int) -> int:
        """Return the smallest total size of batches that hold ``count`` rows."""
        largest = self.sizes[-1]
        whole, rest = divmod(count, largest)
        return whole * largest + next((s for s in self.sizes if s >= rest and rest), 0)

    def fill(self, x: Tensor) -> Tensor:
        """Append rows of zeros, [n, ...] -> [fitting(n), ...]."""
        missing = self.fitting(x.size(0)) - x.size(0)
        return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x

    def apply(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return ``function(*inputs)`` for inputs of a fitting number of rows, in batches."""
        largest, count = self.sizes[-1], inputs[0].size(0)
        if count <= largest:
            return function(*inputs)
        return torch.cat(
            [function(*parts) for parts in zip(*(torch.split(x, largest) for x in inputs))]
        )


def sizes_that_round_alike(
    function: Callable[[Tensor], Tensor], rows: Tensor, sizes: Sequence[int]
) -> Sizes:
    """Return as many sizes as possible for which a function of rows gives the same bits.

    Args:
        function: computes each row of its output from the same row of its input.
        rows: random input, at least as many rows as the largest size.
        sizes: the sizes to try.
    """

    def computed(size: int, x: Tensor) -> Tensor:
        whole = len(x) // size * size
        return torch.cat([function(part) for part in torch.split(x[:whole], size)])

    def is_same(a: Tensor, b: Tensor) -> bool:
        count = min(len(a), len(b))
        return torch.equal(a[:count], b[:count])

    alike: list[tuple[Tensor, list[int]]] = []  # the output, and the sizes that give it
    for size in sizes:
        found = computed(size, rows)
        # a row also has to be independent of its place in the batch
        shifted = computed(size, torch.cat([rows[3:], rows[:3]]))
        if not is_same(shifted[: len(found) - 3], found[3:]):
            continue
        for other, members in alike:
            if is_same(found, other):
                members.append(size)
                break
        else:
            alike.append((found, [size]))
    return Sizes(max((members for _, members in alike), key=len, default=sizes[-1:]))

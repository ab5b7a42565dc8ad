"""Keep the keys and values of many texts of different lengths in one preallocated tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from .prefix_transformer import PrefixTransformer

BLOCK = 64  # rows are read in whole blocks of this many positions


class RowCache:
    """Keys and values of R rows with P positions each, in all layers.

    Positions that no token has been written to hold finite numbers, so that a masked position adds
    exactly 0 to a weighted sum.

    Args:
        transformer: the model; it determines the shape, the dtype and the device.
        rows: R, the number of texts at the same time.
        positions: number of tokens of a row; rounded up to a multiple of ``BLOCK``.
    """

    def __init__(self, transformer: PrefixTransformer, rows: int, positions: int) -> None:
        weight = transformer.embed_tokens.weight
        attention = transformer.layers[0].self_attn
        self.rows, self.positions = rows, -(-positions // BLOCK) * BLOCK
        shape = (len(transformer.layers), 2, rows, attention.num_heads, self.positions)
        self.data = torch.zeros(
            *shape, attention.head_dim, dtype=weight.dtype, device=weight.device
        )  # [L, 2, R, H, P, D]

    @staticmethod
    def bytes_of_row(transformer: PrefixTransformer, positions: int) -> int:
        """Return the memory of one row, in bytes."""
        weight = transformer.embed_tokens.weight
        positions = -(-positions // BLOCK) * BLOCK
        numbers = len(transformer.layers) * 2 * positions * weight.size(1)
        return numbers * weight.element_size()

    @property
    def num_bytes(self) -> int:
        """Return the memory of the whole cache, in bytes."""
        return self.data.numel() * self.data.element_size()

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of a layer, both [R, H, P, D]."""
        keys, values = self.data[number].unbind(0)
        return keys, values

    def places(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Return where the tokens at the given positions of rows are written, for :meth:`write`.

        Args:
            rows, positions: int64 [N].

        Returns:
            int64 [N * 2 * H].
        """
        _, _, num_rows, heads, width, _ = self.data.shape
        head = torch.arange(heads, device=rows.device)
        first = (rows.unsqueeze(1) * heads + head) * width + positions.unsqueeze(1)  # [N, H]
        return torch.stack([first, first + num_rows * heads * width], 1).flatten()

    def write(self, layer: int, places: Tensor, new: Tensor) -> None:
        """Write keys and values of new tokens.

        Args:
            layer: number of the layer.
            places: result of :meth:`places` for the N tokens.
            new: keys and values [N, 2, H, D].
        """
        cells = self.data[layer].view(-1, self.data.size(-1))
        cells.index_copy_(0, places, new.reshape(-1, self.data.size(-1)))

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row to another row."""
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]

    def clear(self, row: int) -> None:
        """Set a row to zero, because it may hold numbers that are not finite."""
        self.data[:, :, row] = 0

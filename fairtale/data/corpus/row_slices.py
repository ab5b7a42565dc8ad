"""Read parts of rows of tokens without reading whole rows."""

import numpy as np
import torch
from fairseq.data import ConcatDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from torch import Tensor

from .sharded_rows import ShardedRows
from .sized_dataset import TokenRows


def row_slice(tokens: TokenRows, row: int, start: int, stop: int) -> Tensor:
    """Return the tokens ``start`` to ``stop - 1`` of a row, int64 [stop - start].

    Of a memory-mapped dataset, only these tokens are read. fairseq's own class converts a whole
    row, which takes a thousand times as long if the row is a novel and the part a block.

    Args:
        tokens: rows of tokens.
        row: number of the row.
        start: index of the first token, at least 0.
        stop: index behind the last token, at most the length of the row.
    """
    while isinstance(tokens, ConcatDataset):
        part, row = tokens._get_dataset_and_sample_index(row)
        tokens = tokens.datasets[part]
    if isinstance(tokens, ShardedRows):
        return tokens.row_slice(row, start, stop)
    if not isinstance(tokens, MMapIndexedDataset):
        return tokens[row][start:stop].long()
    kind = np.dtype(tokens._index.dtype)
    offset, size = tokens._index[row]
    if not 0 <= start <= stop <= size:
        raise IndexError(f"tokens {start} to {stop} of a row of {size}")
    values = np.frombuffer(
        tokens._bin_buffer,
        dtype=kind,
        count=stop - start,
        offset=int(offset) + start * kind.itemsize,
    )
    return torch.from_numpy(values.astype(np.int64))

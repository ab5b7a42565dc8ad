"""Work around the samples that fairseq drops when it makes batches."""

import functools
from typing import Any

import numpy as np
from fairseq.data import data_utils


def cure_lost_batches() -> None:
    """Keep the last batch of a split, whatever its size.

    ``data_utils.batch_by_size`` ends with ``b = b[:-1]`` if the size is not a multiple of 8. Of 100
    sentences, only 96 are then used in training, validation or generation, without a warning. The
    other batches stay as they are. Remove this work-around once fairseq drops those two lines.
    """
    original = data_utils.batch_by_size

    @functools.wraps(original)
    def batch_by_size(indices: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(indices, np.ndarray):
            indices = np.fromiter(indices, dtype=np.int64, count=-1)
        if len(indices) == 0:
            return []
        batches = list(original(indices, *args, **kwargs))
        covered = sum(len(batch) for batch in batches)
        fixed_shapes = kwargs.get("fixed_shapes") or (len(args) > 5 and args[5])
        if not fixed_shapes and covered < len(indices):
            batches.append(indices[covered:])
        return batches

    data_utils.batch_by_size = batch_by_size

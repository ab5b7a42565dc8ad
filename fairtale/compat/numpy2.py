"""Work around names that NumPy 2 has removed and fairseq still uses."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from fairseq.data import data_utils


def cure_numpy_names() -> None:
    """Restore ``np.compat.long``, and compute buckets without ``interpolation=``.

    NumPy 2 has neither, so ``--sample-break-mode eos`` and ``--num-batch-buckets`` fail. Remove
    this work-around once fairseq uses ``np.int64`` and ``method=``.
    """
    if not hasattr(np, "compat"):
        setattr(np, "compat", SimpleNamespace(long=int))  # noqa: B010  (a name mypy does not know)

    def get_buckets(sizes: Any, num_buckets: int) -> Any:
        marks = np.linspace(0, 100, num_buckets + 1)
        return np.unique(np.percentile(sizes, marks, method="lower")[1:])

    data_utils.get_buckets = get_buckets

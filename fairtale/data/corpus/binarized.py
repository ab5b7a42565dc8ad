"""Load splits written by fairseq-preprocess, and refuse truncated or mismatched files."""

import os
import struct
from typing import Any

import numpy as np
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import _code_to_dtype

from ...errors import UserError

_MAGIC = b"MMIDIDX\x00\x00"


def load_binarized(prefix: str, dictionary: Dictionary, combine: bool = False) -> Any:
    """Return the indexed dataset ``prefix``.idx and ``prefix``.bin, or None if there is none.

    Args:
        prefix: path of the two files without their extensions.
        dictionary: fairseq's dictionary of the dataset.
        combine: concatenate ``prefix``, ``prefix``1, ``prefix``2, ..., as far as they exist.

    Raises:
        UserError: a file is truncated, or the two files do not belong together.
    """
    number = 0
    while os.path.isfile(f"{prefix}{number or ''}.idx"):
        check_binarized(f"{prefix}{number or ''}")
        number += 1
    return data_utils.load_indexed_dataset(prefix, dictionary, combine=combine)


def check_binarized(prefix: str) -> None:
    """Check that the sizes of the index file and the data file agree with the index.

    Only fairseq's memory-mapped format is checked; other formats are accepted unchecked.

    Args:
        prefix: path of the two files without their extensions.

    Raises:
        UserError: a size does not agree.
    """
    index, data = f"{prefix}.idx", f"{prefix}.bin"
    with open(index, "rb") as f:
        magic = f.read(len(_MAGIC))
        if magic != _MAGIC[: len(magic)]:
            return
        header = f.read(17)
        if len(header) < 17:
            raise UserError(f"{index} is truncated: make the data again")
        _, code, count = struct.unpack("<QBQ", header)
        sizes = np.fromfile(f, dtype="<i4", count=count)
    # After the header, the index holds a 4-byte size and an 8-byte offset for each row.
    if len(sizes) < count or os.path.getsize(index) != len(_MAGIC) + 17 + 12 * count:
        raise UserError(f"{index} is truncated: make the data again")
    needed = int(sizes.sum(dtype=np.int64)) * np.dtype(_code_to_dtype[code]).itemsize
    found = os.path.getsize(data) if os.path.isfile(data) else 0
    if found != needed:
        raise UserError(f"{data} has {found} bytes, its index says {needed}: make the data again")

"""Splits that fairseq-preprocess has written, refused where they are not whole."""

import os
import struct
from typing import Any

import numpy as np
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import _code_to_dtype

from ...errors import UserError

_MAGIC = b"MMIDIDX\x00\x00"


def load_binarized(prefix: str, dictionary: Dictionary, combine: bool = False) -> Any:
    """Return the indexed dataset ``prefix``.idx and .bin, or None where there is none.

    Args:
        combine: join ``prefix``, ``prefix``1, ``prefix``2, ... as far as there are any.

    Raises:
        UserError: a file is cut short, or belongs to another one.
    """
    number = 0
    while os.path.isfile(f"{prefix}{number or ''}.idx"):
        check_binarized(f"{prefix}{number or ''}")
        number += 1
    return data_utils.load_indexed_dataset(prefix, dictionary, combine=combine)


def check_binarized(prefix: str) -> None:
    """Compare the sizes of two files with what the index says; both stay closed otherwise.

    Only fairseq's memory-mapped format is checked.

    Raises:
        UserError: they do not agree.
    """
    index, data = f"{prefix}.idx", f"{prefix}.bin"
    with open(index, "rb") as f:
        magic = f.read(len(_MAGIC))
        if magic != _MAGIC[: len(magic)]:
            return
        header = f.read(17)
        if len(header) < 17:
            raise UserError(f"{index} is cut short: make the data again")
        _, code, count = struct.unpack("<QBQ", header)
        sizes = np.fromfile(f, dtype="<i4", count=count)
    # after the header: a size of 4 and a place of 8 bytes for each row
    if len(sizes) < count or os.path.getsize(index) != len(_MAGIC) + 17 + 12 * count:
        raise UserError(f"{index} is cut short: make the data again")
    needed = int(sizes.sum(dtype=np.int64)) * np.dtype(_code_to_dtype[code]).itemsize
    found = os.path.getsize(data) if os.path.isfile(data) else 0
    if found != needed:
        raise UserError(f"{data} has {found} bytes, its index says {needed}: make the data again")

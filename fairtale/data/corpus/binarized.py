"""Load splits written by fairseq-preprocess, and refuse truncated or mismatched files."""

import os
import re
from typing import Any

from fairseq.data import Dictionary, data_utils

from ...errors import UserError
from .sharded_rows import ShardedRows, read_index


def load_binarized(prefix: str, dictionary: Dictionary, combine: bool = False) -> Any:
    """Return the rows of ``prefix``.idx and ``prefix``.bin, or None if there are none.

    ``prefix`` may also be a folder, whose shards are joined in the order of the numbers in their
    names. Files in fairseq's other formats are loaded by fairseq.

    Args:
        prefix: path of the two files without their extensions.
        dictionary: fairseq's dictionary of the dataset.
        combine: concatenate ``prefix``, ``prefix``1, ``prefix``2, ..., as far as they exist.

    Raises:
        UserError: a file is truncated, the two files do not belong together, there is both a file
            and a folder of this name, or the folder has no shards.
    """
    prefixes = []
    if os.path.isdir(prefix):
        if os.path.isfile(f"{prefix}.idx"):
            raise UserError(f"{prefix} is a folder beside {prefix}.idx: remove one of them")
        prefixes = _shards_inside(prefix)
    else:
        while os.path.isfile(f"{prefix}{len(prefixes) or ''}.idx"):
            prefixes.append(f"{prefix}{len(prefixes) or ''}")
            if not combine:
                break
    found = [read_index(path) for path in prefixes]
    shards = [shard for shard in found if shard is not None]
    if shards and len(shards) == len(found):
        return ShardedRows(shards)
    return data_utils.load_indexed_dataset(prefix, dictionary, combine=combine)


def _shards_inside(folder: str) -> list[str]:
    names = [name.removesuffix(".idx") for name in os.listdir(folder) if name.endswith(".idx")]
    if not names:
        raise UserError(f"{folder}: a folder without shards (.idx, .bin): make the data again")
    names.sort(key=lambda name: [(text, int(n or -1)) for text, n in _PARTS.findall(name)])
    return [os.path.join(folder, name) for name in names]


_PARTS = re.compile(r"(\D*)(\d*)")

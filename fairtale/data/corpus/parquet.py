"""Read the rows of parquet files with pyarrow, which is optional."""

import importlib
from collections.abc import Iterator
from typing import Any

from ...errors import UserError

MAGIC = b"PAR1"
_ROWS_AT_A_TIME = 1000


def read_parquet(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file (row number), fields)`` of a file, a group of rows at a time.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    file = _open(path)
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
            for fields in batch.to_pylist():
                number += 1
                yield f"{path} (row {number})", fields
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged parquet after row {number} ({error}); fetch it again"
        ) from None


def parquet_columns(path: str) -> list[str]:
    """Return the names of the columns of a file."""
    return list(_open(path).schema_arrow.names)


def _open(path: str) -> Any:
    try:
        module = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise UserError(
            f"{path}: pyarrow is not installed, which reads parquet; run: "
            "pip install 'fairtale[parquet]'"
        ) from None
    try:
        return module.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged parquet ({error}); fetch it again") from None

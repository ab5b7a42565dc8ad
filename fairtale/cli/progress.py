"""Progress bars."""

import sys
from typing import Any

# between two states of a bar that is written to a log file, where nobody watches it live
_SECONDS_BETWEEN_LOG_LINES = 10.0


def progress_bar(total: float | None, unit: str, description: str, **options: Any) -> Any:
    """Return a tqdm bar on stderr; it prints a line every ten seconds if that is no terminal.

    Args:
        total: how many units there are; None if that is not known.
        unit: name of what is counted.
        description: shown before the bar.
        options: further ones of tqdm.
    """
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        desc=description,
        file=sys.stderr,
        mininterval=0.1 if watched else _SECONDS_BETWEEN_LOG_LINES,
        maxinterval=10.0 if watched else 2 * _SECONDS_BETWEEN_LOG_LINES,
        dynamic_ncols=watched,
        **options,
    )

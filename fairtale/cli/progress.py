"""Progress bars."""

import sys
from typing import Any

# Interval at which a bar prints a line if stderr is not a terminal.
_SECONDS_BETWEEN_LOG_LINES = 10.0


def progress_bar(total: float | None, unit: str, description: str, **options: Any) -> Any:
    """Return a tqdm bar on stderr; it prints a line every ten seconds if that is not a terminal.

    Args:
        total: number of units; None if unknown.
        unit: name of the unit.
        description: text before the bar.
        options: further arguments of tqdm.
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

"""Numbers out of a fairseq training log, in its json or its simple format."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import UserError

# `... | INFO | train_inner | {"epoch": 1, ...}`; the part before the brace depends on the
# logging format (and is missing in a --log-file).
_JSON = re.compile(r"(?:^|\| )(\{\".*\})\s*$")
# `epoch 001:     10 / 100 loss=3.2, ppl=9.1, num_updates=10, ...`
_SIMPLE_INNER = re.compile(r"epoch \d+:\s+\d+ / \d+ (.+=.+)$")
# `epoch 001 | loss 3.2 | num_updates 100` and `epoch 001 | valid on 'valid' subset | ...`
_SIMPLE_END = re.compile(r"epoch \d+ \| (?:valid on '([^']+)' subset \| )?(\S+ \S+ \|.*)$")

# Not worth a curve: they are the axis, or only count.
RESERVED_METRICS = frozenset(("num_updates", "epoch", "update", "wall", "train_wall"))


# (subset, metric) -> [(num_updates, value), ...]; the subset of training is ``train``, those of
# validation have fairseq's names
Curves = dict[tuple[str, str], list[tuple[int, float]]]


class _Entry(NamedTuple):
    """The numbers of one line."""

    kind: str  # inner: while training; end: means of an epoch; valid: of a validation
    subset: str
    stats: dict[str, float]


def read_log(path: str | os.PathLike[str]) -> Curves:
    """Read the curves of one run.

    The points are ordered by update. Where a resumed run repeats updates, what was
    logged first is dropped.

    Args:
        path: a log written by fairseq-train with ``--log-format json`` or ``simple``.

    Raises:
        UserError: no such file, or not one number in it.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such log file")
    entries: dict[str, list[_Entry]] = {"inner": [], "end": [], "valid": []}
    # A log may hold generated samples in any encoding; only the numbers matter here.
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            entry = _parse(line.rstrip())
            if entry is not None:
                entries[entry.kind].append(entry)
    # The means over whole epochs serve where nothing was logged between their ends.
    curves = _curves((entries["inner"] or entries["end"]) + entries["valid"])
    if not curves:
        raise UserError(
            f"{path}: no training numbers in it; fairseq-train writes them with "
            "--log-format json or simple (and --log-interval below the number of updates)"
        )
    return curves


def _parse(line: str) -> _Entry | None:
    """Return the numbers of a line, or None where it has none."""
    found = _JSON.search(line)
    if found:
        try:
            return _from_json(json.loads(found.group(1)))
        except json.JSONDecodeError:
            return None
    found = _SIMPLE_INNER.search(line)
    if found:
        return _entry("inner", "train", _pairs(found.group(1).split(", "), "="))
    found = _SIMPLE_END.search(line)
    if found:
        subset, stats = found.groups()
        pairs = _pairs(stats.split(" | "), " ")
        return _entry("valid" if subset else "end", subset or "train", pairs)
    return None


def _pairs(items: Iterable[str], separator: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of the items that have both."""
    for item in items:
        name, found, value = item.partition(separator)
        if found:
            yield name, value


def _from_json(stats: dict[str, Any]) -> _Entry | None:
    if "num_updates" in stats:
        return _entry("inner", "train", stats.items())
    for name in stats:
        if name.endswith("_num_updates"):
            subset = name.removesuffix("_num_updates")
            prefix = subset + "_"
            pairs = (
                (key.removeprefix(prefix), value)
                for key, value in stats.items()
                if key.startswith(prefix)
            )
            return _entry("end" if subset == "train" else "valid", subset, pairs)
    return None


def _entry(kind: str, subset: str, pairs: Iterable[tuple[str, Any]]) -> _Entry | None:
    stats = {}
    for metric, value in pairs:
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue  # text, such as a device name
        if math.isfinite(number):
            stats[metric.strip()] = number
    return _Entry(kind, subset, stats) if "num_updates" in stats else None


def _curves(entries: list[_Entry]) -> Curves:
    curves: Curves = {}
    for _, subset, stats in entries:
        update = int(stats["num_updates"])
        for metric, number in stats.items():
            if metric == "num_updates":
                continue
            points = curves.setdefault((subset, metric), [])
            while points and points[-1][0] >= update:
                points.pop()
            points.append((update, number))
    return curves

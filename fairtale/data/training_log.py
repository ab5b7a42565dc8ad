"""Read the statistics of a fairseq training or validation log in json or simple format."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from ..errors import UserError

# `... | INFO | train_inner | {"epoch": 1, ...}`; the part before the brace depends on the
# logging format and is missing in a --log-file.
_JSON = re.compile(r"(?:^|\| )(\{\".*\})\s*$")
# `epoch 001:     10 / 100 loss=3.2, ppl=9.1, num_updates=10, ...`
_SIMPLE_INNER = re.compile(r"epoch \d+:\s+\d+ / \d+ (.+=.+)$")
# `epoch 001 | valid on 'valid' subset | loss 3.2 | ...`; fairseq-validate prints no epoch
_SIMPLE_VALID = re.compile(r"valid on '([^']+)' subset \| (.+)$")
# `epoch 001 | loss 3.2 | num_updates 100`
_SIMPLE_END = re.compile(r"epoch \d+ \| (\S+ \S+ \|.*)$")

# fairseq-train's first log line: `... | {'_name': None, 'common': {... 'bf16': True, ...`
_CONFIG = re.compile(r"\{'_name': None, 'common': \{.*?\}")

# Metrics without a curve of their own: the horizontal axis, counters and timers.
RESERVED_METRICS = frozenset(("num_updates", "epoch", "update", "wall", "train_wall"))

Curves = dict[tuple[str, str], list[tuple[int, float]]]


class Entry(NamedTuple):
    """The statistics of one line of a log.

    The kind ``inner`` means averages over a few updates, ``end`` averages over an epoch, and
    ``valid`` averages over a validation subset.
    """

    kind: Literal["inner", "end", "valid"]
    subset: str  # "train" for training
    stats: dict[str, float]


def read_log(path: str | os.PathLike[str]) -> Curves:
    """Return the curves of one run.

    The points are ordered by update. If a resumed run repeats updates, the earlier entries are
    dropped.

    Args:
        path: a log written by fairseq-train with ``--log-format json`` or ``simple``.

    Returns:
        a mapping from ``(subset, metric)`` to ``[(num_updates, value), ...]``; the subset of
        training is ``train``, and validation subsets have fairseq's names.

    Raises:
        UserError: the file does not exist, or it holds no statistics.
    """
    entries = [entry for entry in map(parse_line, _lines(path)) if entry is not None]
    entries = [entry for entry in entries if "num_updates" in entry.stats]
    inner = [entry for entry in entries if entry.kind == "inner"]
    ends = [entry for entry in entries if entry.kind == "end"]
    # Use the averages over epochs only if nothing was logged within epochs.
    curves = _curves((inner or ends) + [entry for entry in entries if entry.kind == "valid"])
    if not curves:
        raise UserError(
            f"{path}: no training statistics in it; fairseq-train writes them with "
            "--log-format json or simple (and --log-interval below the number of updates)"
        )
    return curves


def last_validation(path: str | os.PathLike[str], subset: str | None = None) -> dict[str, float]:
    """Return the statistics of the last validation in a log of fairseq-train or -validate.

    Args:
        path: the log.
        subset: the validation subset; None means any.

    Raises:
        UserError: the file does not exist, or it holds no such validation.
    """
    last = None
    for entry in map(parse_line, _lines(path)):
        if entry is not None and entry.kind == "valid" and subset in (None, entry.subset):
            last = entry
    if last is None:
        raise UserError(f"{path}: no validation{f' of {subset}' if subset else ''} in it")
    return last.stats


def last_precision(path: str | os.PathLike[str]) -> str | None:
    """Return the precision of the last training in a log: fp32, fp16 or bf16; None if unknown.

    Raises:
        UserError: the file does not exist.
    """
    precision = None
    for line in _lines(path):
        found = _CONFIG.search(line)
        if found:
            names = [name for name in ("fp16", "bf16") if f"'{name}': True" in found[0]]
            precision = names[0] if names else "fp32"
    return precision


def _lines(path: str | os.PathLike[str]) -> Iterable[str]:
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such log file")
    # Generated samples in a log may be invalid UTF-8; only the statistics are read here.
    with open(path, encoding="utf-8", errors="replace") as stream:
        yield from stream


def parse_line(line: str) -> Entry | None:
    """Return the statistics of one line of a log, or None if it has none."""
    line = line.rstrip()
    found = _JSON.search(line)
    if found:
        try:
            return _from_json(json.loads(found.group(1)))
        except json.JSONDecodeError:
            return None
    found = _SIMPLE_INNER.search(line)
    if found:
        pairs = (item.split("=", 1) for item in found.group(1).split(", ") if "=" in item)
        return _entry("inner", "train", pairs)
    found = _SIMPLE_VALID.search(line)
    if found:
        return _entry("valid", found.group(1), _piped(found.group(2)))
    found = _SIMPLE_END.search(line)
    if found:
        return _entry("end", "train", _piped(found.group(1)))
    return None


def _piped(text: str) -> Iterator[list[str]]:
    return (item.split(" ", 1) for item in text.split(" | ") if " " in item)


def _from_json(stats: dict[str, object]) -> Entry | None:
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


def _entry(
    kind: Literal["inner", "end", "valid"], subset: str, pairs: Iterable[Sequence[object]]
) -> Entry | None:
    stats = {}
    for metric, value in pairs:
        try:
            number = float(str(value))
        except ValueError:
            continue  # text, such as a device name
        if math.isfinite(number):
            stats[str(metric).strip()] = number
    return Entry(kind, subset, stats) if stats else None


def _curves(entries: Iterable[Entry]) -> Curves:
    curves: Curves = {}
    for entry in entries:
        update = int(entry.stats["num_updates"])
        for metric, number in entry.stats.items():
            if metric == "num_updates":
                continue
            points = curves.setdefault((entry.subset, metric), [])
            while points and points[-1][0] >= update:
                points.pop()
            points.append((update, number))
    return curves

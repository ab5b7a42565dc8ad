"""Read and write the history of a model's gates in the file ``gates.jsonl``.

Reading a history needs neither torch nor fairseq. :mod:`.gate_pictures` draws the pictures.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Required, TypedDict

from ..errors import UserError
from .gate_pictures import heat_map, pixels
from .parts import type_of, types_of

if TYPE_CHECKING:
    from ..modules.hard_concrete import HardConcreteGate

logger = logging.getLogger(__name__)

HISTORY_NAME = "gates.jsonl"


class GateRecord(TypedDict, total=False):
    """The state of all gates after an update, with one number per head for each attention.

    Attentions are named as "encoder.0".
    """

    update: Required[int]
    state: str  # "fixed" if all gates are fixed, else "learned"
    open_probability: Required[dict[str, list[float]]]
    value: dict[str, list[float]]  # values in evaluation, 0 to 1


# ------------------------------------------------------------------------------- the file


def append_record(path: str | os.PathLike[str], record: GateRecord) -> None:
    """Append ``record`` to a history, and create its file and folder if they do not exist.

    If a killed run has left an incomplete last line, that line is cut off first.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "a+b") as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read() != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write((json.dumps(record) + "\n").encode())


def read_history(path: str | os.PathLike[str]) -> list[GateRecord]:
    """Return the records of a history, in the order of updates.

    If a resumed training has repeated updates, the earlier records of these updates are dropped. An
    incomplete last line, which a killed training leaves, is ignored.

    Raises:
        UserError: the file does not exist, contains no record, or is not a history of gates.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; training with --criterion l0_gated writes it")
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = stream.read().split("\n")
    records: list[GateRecord] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            update, shape = record["update"], _shape(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not a record of gates") from None
        while records and (records[-1]["update"] >= update or _shape(records[-1]) != shape):
            records.pop()
        records.append(record)
    if not records:
        raise UserError(f"{path}: contains no records; training may have stopped too early")
    return records


def _shape(record: GateRecord) -> dict[str, int]:
    return {key: len(row) for key, row in record["open_probability"].items()}


# ------------------------------------------------------------------------ during training


class GateHistory:
    """Write gates to the log, ``gates.jsonl``, PNG files and TensorBoard, on the first worker.

    Args:
        save_dir: folder for ``gates.jsonl`` and for the folder ``gates`` with the pictures.
        tensorboard_logdir: folder for the TensorBoard files; None to write no such files.
    """

    def __init__(self, save_dir: str, tensorboard_logdir: str | None = None) -> None:
        self.save_dir = save_dir
        self.tensorboard_logdir = tensorboard_logdir
        self._writer: Any = None
        self._last_update: int | None = None

    def write(self, gates: dict[str, HardConcreteGate], update: int) -> None:
        """Write the current gates; do nothing if this update was already written.

        Args:
            gates: gates by attention.
            update: number of finished updates.
        """
        if update == self._last_update or not _is_first_worker():
            return
        self._last_update = update
        record: GateRecord = {
            "update": update,
            "state": "fixed" if all(g.is_fixed for g in gates.values()) else "learned",
            "open_probability": _rounded(
                {key: gate.open_probability().tolist() for key, gate in gates.items()}
            ),
            "value": _rounded({key: gate.value().tolist() for key, gate in gates.items()}),
        }
        append_record(os.path.join(self.save_dir, HISTORY_NAME), record)
        for line in _log_lines(record):
            logger.info("gates @ %d updates: %s", update, line)
        self._write_tensorboard(record)
        self._draw(record)

    def _write_tensorboard(self, record: GateRecord) -> None:
        if not self.tensorboard_logdir:
            return
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(os.path.join(self.tensorboard_logdir, "gates"))
        for key, row in record["open_probability"].items():
            self._writer.add_scalar(f"expected_open/{key}", sum(row), record["update"])
            num_open = _num_open(record["value"][key])
            self._writer.add_scalar(f"open/{key}", num_open, record["update"])

    def _draw(self, record: GateRecord) -> None:
        if importlib.util.find_spec("matplotlib") is None:
            logger.info("no pictures of gates without matplotlib: pip install 'fairtale[plots]'")
            return
        update = record["update"]
        figure = heat_map(record["open_probability"], f"{update} updates")
        folder = os.path.join(self.save_dir, "gates")
        os.makedirs(folder, exist_ok=True)
        figure.savefig(os.path.join(folder, f"{update:08d}.png"), format="png", dpi=100)
        if self._writer is not None:
            self._writer.add_image("gates", pixels(figure), update, dataformats="HWC")
            self._writer.flush()


def _is_first_worker() -> bool:
    from torch import distributed  # imported here, because plot-gates must not import torch

    if not distributed.is_available() or not distributed.is_initialized():
        return True
    return distributed.get_rank() == 0


def _rounded(rows: dict[str, list[float]]) -> dict[str, list[float]]:
    return {key: [round(x, 6) for x in row] for key, row in rows.items()}


def _num_open(values: list[float]) -> int:
    return sum(value > 0 for value in values)


def _log_lines(record: GateRecord) -> Iterator[str]:
    """Yield a line for each type: ``encoder 5 of 8 open (2 3), expected 4.90 (2.1 2.8)``."""
    for kind in types_of(record["value"]):
        keys = [key for key in record["value"] if type_of(key) == kind]
        num_heads = sum(len(record["value"][key]) for key in keys)
        opened = [_num_open(record["value"][key]) for key in keys]
        expected = [sum(record["open_probability"][key]) for key in keys]
        yield (
            f"{kind} {sum(opened)} of {num_heads} open ({' '.join(map(str, opened))}), "
            f"expected {sum(expected):.2f} ({' '.join(f'{x:.1f}' for x in expected)})"
        )

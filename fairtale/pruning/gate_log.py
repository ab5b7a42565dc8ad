"""Keeps what becomes of gates while they are learned."""

import importlib.util
import logging
import os

import torch

from .gate_history import HISTORY_NAME, append_record, heat_map, pixels
from .parts import type_of

logger = logging.getLogger(__name__)


class GateHistory:
    """Keeps what becomes of gates: log, ``gates.jsonl``, PNG and TensorBoard; first worker only.

    Args:
        save_dir: where the file and the folder ``gates`` go.
        tensorboard_logdir: None for no TensorBoard.
    """

    def __init__(self, save_dir, tensorboard_logdir=None):
        self.save_dir = save_dir
        self.logdir = tensorboard_logdir
        self.writer = None
        self.last = None

    def write(self, gates, update):
        """Write the gates once for each update."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if update == self.last or (distributed and torch.distributed.get_rank() > 0):
            return
        self.last = update
        chances = {k: gate.open_probability().tolist() for k, gate in gates.items()}
        values = {k: gate.value().tolist() for k, gate in gates.items()}
        record = {
            "update": update,
            "state": "fixed" if all(g.is_fixed for g in gates.values()) else "learned",
            "open_probability": _rounded(chances),
            "value": _rounded(values),
        }
        append_record(os.path.join(self.save_dir, HISTORY_NAME), record)
        for line in _lines(record):
            logger.info("gates @ %d updates: %s", update, line)
        self._draw(record)

    def _draw(self, record):
        if self.logdir and self.writer is None:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(os.path.join(self.logdir, "gates"))
        update = record["update"]
        if self.writer is not None:
            for key, row in record["open_probability"].items():
                self.writer.add_scalar(f"expected_open/{key}", sum(row), update)
                opened = sum(v > 0 for v in record["value"][key])
                self.writer.add_scalar(f"open/{key}", opened, update)
        if importlib.util.find_spec("matplotlib") is None:
            logger.info("no picture of the gates: pip install 'fairtale[plots]'")
            return
        figure = heat_map(record)
        folder = os.path.join(self.save_dir, "gates")
        os.makedirs(folder, exist_ok=True)
        figure.savefig(os.path.join(folder, f"{update:08d}.png"), format="png", dpi=100)
        if self.writer is not None:
            self.writer.add_image("gates", pixels(figure), update, dataformats="HWC")
            self.writer.flush()


def _rounded(rows):
    return {key: [round(x, 6) for x in row] for key, row in rows.items()}


def _lines(record):
    """One line an attention type: ``encoder 5 of 8 open (2 3), expected 4.90 (2.1 2.8)``."""
    for kind in dict.fromkeys(map(type_of, record["value"])):
        keys = [key for key in record["value"] if type_of(key) == kind]
        opened = [sum(v > 0 for v in record["value"][key]) for key in keys]
        chances = [sum(record["open_probability"][key]) for key in keys]
        yield (
            f"{kind} {sum(opened)} of {sum(len(record['value'][key]) for key in keys)} open "
            f"({' '.join(map(str, opened))}), expected {sum(chances):.2f} "
            f"({' '.join(f'{x:.1f}' for x in chances)})"
        )

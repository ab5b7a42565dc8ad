"""Folders with the shards of a checkpoint: their names, which of them is whole, which are kept.

A save is written into a folder with another ending, which is renamed when all processes have
written their files. So a folder with the right name is whole, whenever a training is killed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

ENDING = ".shards"
UNFINISHED = ENDING + ".tmp"
STATE_FILE = "state.pt"  # what is not divided, in the form of fairseq's checkpoints
_SAVE_FILE = "save.json"  # why the checkpoint was saved
_NAME = re.compile(r"checkpoint_(\d+)_(\d+)" + re.escape(ENDING))


@dataclass(frozen=True)
class Save:
    """A moment of a training at which it is saved, and for what."""

    epoch: int
    num_updates: int
    at_end_of_epoch: bool = False  # kept by --keep-last-epochs
    at_interval: bool = False  # kept by --keep-interval-updates
    is_best: bool = False  # of all validations until now

    @property
    def name(self) -> str:
        """Return the name of the folder, once it is whole."""
        return f"checkpoint_{self.epoch}_{self.num_updates}{ENDING}"


@dataclass(frozen=True)
class Kept:
    """How many folders are kept; 0 means all."""

    intervals: int = 0
    epochs: int = 0


def begin(save_dir: Path, save: Save) -> Path:
    """Make an empty folder for a save, and return it."""
    folder = (save_dir / save.name).with_suffix(UNFINISHED)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _SAVE_FILE).write_text(json.dumps(asdict(save)), encoding="utf-8")
    return folder


def complete(folder: Path, save: Save) -> Path:
    """Give a folder that is written through to the disk its name, and return it."""
    whole = folder.with_name(save.name)
    if whole.exists():  # of an earlier training, which was at this update before
        shutil.rmtree(whole)
    _write_through(folder)
    os.rename(folder, whole)
    _write_through(whole.parent)
    return whole


def _write_through(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint."""
    return folder.name.endswith(ENDING) and (folder / STATE_FILE).is_file()


def whole_folders(save_dir: Path) -> list[tuple[int, Path]]:
    """Return the whole checkpoints of a folder with their numbers of updates, the newest last."""
    if not save_dir.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in save_dir.iterdir()]
    return sorted((int(name[2]), path) for name, path in found if name and is_whole(path))


def remove_unfinished(save_dir: Path) -> None:
    """Remove the folders that killed trainings have left."""
    for folder in sorted(save_dir.glob(f"checkpoint_*{UNFINISHED}")):
        logger.warning("removing %s, which a killed training has left", folder)
        shutil.rmtree(folder)


def remove_old(save_dir: Path, kept: Kept) -> list[Path]:
    """Remove the folders that nothing asks to keep, and return them.

    The newest one and the best one are always kept.
    """
    saves = [(_read(path), path) for _, path in whole_folders(save_dir)]
    keep = {saves[-1][1]} if saves else set()
    for chosen, count in (
        ([path for save, path in saves if save.at_interval], kept.intervals),
        ([path for save, path in saves if save.at_end_of_epoch], kept.epochs),
        ([path for save, path in saves if save.is_best], 1),
    ):
        keep |= set(_newest(chosen, count))
    old = [path for _, path in saves if path not in keep]
    for path in old:
        # first the name, so that half of a folder is never taken for a checkpoint
        leaving = path.with_suffix(UNFINISHED)
        os.rename(path, leaving)
        shutil.rmtree(leaving)
    return old


def _newest(paths: Sequence[Path], count: int) -> Sequence[Path]:
    return paths if count <= 0 else paths[-count:]


def _read(folder: Path) -> Save:
    return Save(**json.loads((folder / _SAVE_FILE).read_text(encoding="utf-8")))

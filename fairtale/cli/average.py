"""Average the weights of several checkpoints of one training into one.

Give checkpoint files, or a folder with --last N: its newest N checkpoints, those between
(checkpoint_EPOCH_UPDATE.pt) where there are any, else those at the ends of epochs
(checkpointEPOCH.pt). The result holds no optimizer state: it is for generation, and for
--finetune-from-model.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .argument_types import positive_int
from .files import whole_file

if TYPE_CHECKING:
    from torch import Tensor

RENAMED_OPTIONS = {"--out": "--output"}

_BETWEEN, _EPOCH = re.compile(r"checkpoint_\d+_(\d+)\.pt"), re.compile(r"checkpoint(\d+)\.pt")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="+", help="files, or one folder")
    parser.add_argument("--output", required=True, metavar="FILE", help="the averaged checkpoint")
    parser.add_argument(
        "--last",
        type=positive_int,
        default=5,
        metavar="N",
        help="how many checkpoints of a folder (default: %(default)s)",
    )


def run(args: Namespace) -> None:
    files = find_checkpoints(args.checkpoint, args.last)
    state = average(files)
    import torch

    with whole_file(args.output, "wb") as stream:
        torch.save(state, stream)
    print(f"average of {', '.join(map(os.path.basename, files))} -> {args.output}")


def find_checkpoints(names: Sequence[str], last: int) -> list[str]:
    """Return the files that are averaged, the newest first.

    Raises:
        UserError: there are fewer than ``last`` in a folder, or none of them.
    """
    if not os.path.isdir(names[0]):
        if len(names) < 2:
            raise UserError(f"{names[0]}: one checkpoint; give two or more, or a folder")
        for name in names:
            if not os.path.isfile(name):
                raise UserError(f"{name}: no such checkpoint")
        return list(names)
    if len(names) > 1:
        raise UserError("give one folder, or checkpoint files")
    for pattern in (_BETWEEN, _EPOCH):
        found = [(int(m[1]), m[0]) for m in map(pattern.fullmatch, os.listdir(names[0])) if m]
        if found:
            break
    if len(found) < last:
        raise UserError(
            f"--last {last}: {names[0]} holds {len(found)} checkpoints to average "
            "(checkpoint_EPOCH_UPDATE.pt, checkpointEPOCH.pt); train with --keep-interval-updates "
            f"{last}, or lower --last"
        )
    return [os.path.join(names[0], name) for _, name in sorted(found, reverse=True)[:last]]


def average(files: Sequence[str]) -> dict[str, Any]:
    """Return the first file's checkpoint with the mean of all files' weights.

    The mean is computed in 64 bits and rounded once. Integers (a version, a fixed gate's mask)
    must be the same in all files.

    Raises:
        UserError: a file is no checkpoint, or of another model.
    """
    import torch

    from ..compat import read_checkpoint

    first = read_checkpoint(files[0])
    sums = {name: _wide(value) for name, value in first["model"].items()}
    for path in files[1:]:
        weights = read_checkpoint(path)["model"]
        odd = sorted(weights.keys() ^ sums.keys())
        odd = odd or [name for name in sums if weights[name].shape != sums[name].shape]
        if odd:
            raise UserError(f"{path}: not the same model as {files[0]} ({odd[0]} differs)")
        for name, value in weights.items():
            if value.is_floating_point():
                sums[name] += value.to(torch.float64)
            elif not torch.equal(value, sums[name]):
                raise UserError(f"{path}: {name} differs from that of {files[0]}; no mean of both")
    for name, value in first["model"].items():
        if value.is_floating_point():
            sums[name] = (sums[name] / len(files)).to(value.dtype)
    _share_again(first["model"], sums)
    keep = ("args", "cfg", "task_state", "optimizer_history", "extra_state")
    state = {key: first[key] for key in keep if key in first}
    return {**state, "model": sums, "criterion": None, "last_optimizer_state": None}


def _share_again(weights: Mapping[str, Tensor], averaged: dict[str, Tensor]) -> None:
    """Make tensors one that are one in the checkpoint, so that they are written once."""
    first: dict[tuple[Any, ...], str] = {}
    for name, value in weights.items():
        if value.numel():
            place = value.data_ptr(), value.shape, value.stride()
            averaged[name] = averaged[first.setdefault(place, name)]


def _wide(value: Tensor) -> Tensor:
    """Return a copy, in 64 bits if it has fractions."""
    import torch

    return value.to(torch.float64, copy=True) if value.is_floating_point() else value.clone()

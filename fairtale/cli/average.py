"""Average the weights of several checkpoints of one training into one checkpoint.

Give two or more checkpoint files, or a folder to average its newest N checkpoints (--last N). Of
a folder, the checkpoints within epochs (checkpoint_EPOCH_UPDATE.pt) are taken if there are any,
else those at the ends of epochs (checkpointEPOCH.pt). The result has no optimizer state; it can
be used for generation and for --finetune-from-model.
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
    """Add the options of this verb."""
    parser.add_argument(
        "checkpoint", nargs="+", help="checkpoint files, or one folder that holds checkpoints"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="the averaged checkpoint to write"
    )
    parser.add_argument(
        "--last",
        type=positive_int,
        default=5,
        metavar="N",
        help="number of checkpoints to average from a folder (default: %(default)s)",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    files = find_checkpoints(args.checkpoint, args.last)
    state = average(files)
    import torch

    with whole_file(args.output, "wb") as stream:
        torch.save(state, stream)
    print(f"average of {', '.join(map(os.path.basename, files))} -> {args.output}")


def find_checkpoints(names: Sequence[str], last: int) -> list[str]:
    """Return the files to average, the newest first.

    Args:
        names: checkpoint files, or one folder.
        last: number of checkpoints to take from a folder.

    Raises:
        UserError: a file does not exist, or there are too few checkpoints.
    """
    if not os.path.isdir(names[0]):
        if len(names) < 2:
            raise UserError(f"{names[0]}: only one checkpoint; give two or more, or a folder")
        for name in names:
            if not os.path.isfile(name):
                raise UserError(f"{name}: no such checkpoint")
        return list(names)
    if len(names) > 1:
        raise UserError("give either one folder or checkpoint files")
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

    The mean is computed in 64 bits and rounded once. Tensors of integers or booleans (a version
    number, the mask of fixed gates) must be equal in all files.

    Args:
        files: checkpoint files of one model.

    Returns:
        a checkpoint without optimizer state.

    Raises:
        UserError: a file is not a checkpoint, it is a checkpoint of another model, or its weights
            are not numbers.
    """
    import torch

    from ..compat import read_checkpoint
    from ..compat.weights import refuse_broken_weights, without_averages

    first = read_checkpoint(files[0])
    refuse_broken_weights(files[0], first["model"])
    sums = {name: _wide(value) for name, value in first["model"].items()}
    for path in files[1:]:
        weights = read_checkpoint(path)["model"]
        refuse_broken_weights(path, weights)
        odd = sorted(weights.keys() ^ sums.keys())
        odd = odd or [name for name in sums if weights[name].shape != sums[name].shape]
        if odd:
            raise UserError(f"{path}: not the same model as {files[0]} ({odd[0]} differs)")
        for name, value in weights.items():
            if value.is_floating_point():
                sums[name] += value.to(torch.float64)
            elif not torch.equal(value, sums[name]):
                raise UserError(
                    f"{path}: {name} differs from that of {files[0]} and cannot be averaged"
                )
    for name, value in first["model"].items():
        if value.is_floating_point():
            sums[name] = (sums[name] / len(files)).to(value.dtype)
    _share_again(first["model"], sums)
    keep = ("args", "cfg", "task_state", "optimizer_history")
    state = {key: first[key] for key in keep if key in first}
    if "extra_state" in first:
        state["extra_state"] = without_averages(files[0], first, "averaged")
    return {**state, "model": sums, "criterion": None, "last_optimizer_state": None}


def _share_again(weights: Mapping[str, Tensor], averaged: dict[str, Tensor]) -> None:
    """Share the averages of tensors that share memory, so that they are written only once."""
    first: dict[tuple[Any, ...], str] = {}
    for name, value in weights.items():
        if value.numel():
            place = value.data_ptr(), value.shape, value.stride()
            averaged[name] = averaged[first.setdefault(place, name)]


def _wide(value: Tensor) -> Tensor:
    """Return a copy of a tensor, in 64 bits if it is a floating-point tensor."""
    import torch

    return value.to(torch.float64, copy=True) if value.is_floating_point() else value.clone()

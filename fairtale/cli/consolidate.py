"""Make one ordinary checkpoint of the shards that fairseq-train --save-sharded has written.

The file is that of a training in one process, so every command reads it. It takes memory for the
whole state. A training itself goes on from the folder, in any number of processes.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import UserError
from .files import whole_file


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "folder",
        type=Path,
        help="a folder checkpoint_EPOCH_UPDATES.shards, or a --save-dir, whose newest one is taken",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the checkpoint to write")
    parser.add_argument(
        "--no-optimizer-state",
        action="store_true",
        help="leave it out, to generate or to fine-tune: a third of the size",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    from ..distributed.shard_folders import is_whole, whole_folders

    folder: Path = args.folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that --save-sharded has written")
    if not is_whole(folder):
        found = whole_folders(folder)
        if not found:
            raise UserError(
                f"{folder}: neither a whole checkpoint of --save-sharded (checkpoint_*.shards) "
                "nor a folder with one"
            )
        folder = found[-1][1]
    # these imports take seconds
    import torch

    from ..distributed.shard_state import read_whole

    state = read_whole(folder, with_optimizer=not args.no_optimizer_state)
    with whole_file(args.output, "wb") as stream:
        torch.save(state, stream)
    updates = state["optimizer_history"][-1]["num_updates"]
    print(f"{folder} ({updates} updates) -> {args.output}")

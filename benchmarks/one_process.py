#!/usr/bin/env python
"""Train a tiny model in a process group of one process, and go on from its checkpoint.

fairseq makes no process group for a single process, and wraps no model in one. Here both are done
as with several, so that the collective operations of each backend run on the device. The last line
of the output is JSON: the class that wraps the model, the group's backend, and the loss of every
update.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import common
import torch
import torch.distributed as dist

VOCAB, LENGTH, ROWS = 64, 32, 64
# 4 updates make an epoch, so the second call begins within one.
UPDATES = 3, 6


def words_of(args: argparse.Namespace, folder: Path, updates: int) -> list[object]:
    """Return the words of the command line."""
    words = [
        "fairseq-train", folder / "data", "--user-dir", common.USER_DIR,
        "--task", "story_lm", "--arch", "gpt_tiny", "--criterion", "label_smoothed_kl",
        "--optimizer", "adam", "--lr", 1e-3, "--clip-norm", 1.0, "--dropout", 0,
        "--tokens-per-sample", LENGTH, "--batch-size", 8, "--update-freq", 2,
        "--max-update", updates, "--disable-validation", "--no-epoch-checkpoints",
        "--save-dir", folder / "checkpoints", "--log-format", "json", "--log-interval", 1,
        "--num-workers", 0, "--data-buffer-size", 0, "--seed", args.seed,
        "--fp16-init-scale", 4, "--ddp-backend", args.ddp_backend,
        "--distributed-world-size", 1, "--distributed-no-spawn",
        "--distributed-init-method", f"file://{folder}/meeting-{updates}",
    ]  # fmt: skip
    if args.shard_stage:
        words += ["--shard-stage", args.shard_stage]
    if args.precision != "fp32":
        words.append(f"--{args.precision}")
    if args.device == "cpu":
        words += ["--cpu", "--distributed-backend", "gloo"]
    return words


def record(losses: list[float], seen: dict[str, str]) -> None:
    """Let fairseq's Trainer wrap the model, gather its logs, and tell what it does."""
    from fairseq.trainer import Trainer

    init = Trainer.__init__
    reduce = Trainer._reduce_and_log_stats

    def _reduce_and_log_stats(self, logs, size, grad_norm=None):
        losses.append(sum(float(log["loss"]) for log in logs) / float(size))
        seen["wrapper"] = type(self.model).__name__
        wrapped = getattr(self.model, "module", None)
        if type(self.model).__name__ == "ModuleProxyWrapper":
            seen["wrapper"] = type(wrapped).__name__
        return reduce(self, logs, size, grad_norm)

    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        seen["group"] = dist.get_backend()

    Trainer.__init__ = __init__
    Trainer._reduce_and_log_stats = _reduce_and_log_stats
    Trainer.use_distributed_wrapper = property(lambda self: dist.is_initialized())
    Trainer._sync_stats = lambda self: dist.is_initialized()


def train(args: argparse.Namespace, folder: Path, updates: int) -> None:
    """Run fairseq-train as its console script does."""
    from fairseq_cli.train import cli_main

    sys.argv = [str(word) for word in words_of(args, folder, updates)]
    cli_main()


def main() -> None:
    """Train, go on, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--ddp-backend", required=True)
    parser.add_argument("--shard-stage", type=int)
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    losses: list[float] = []
    seen: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        common.write_data_folder(folder / "data", VOCAB, LENGTH, ROWS, args.seed)
        record(losses, seen)
        for updates in UPDATES:
            train(args, folder, updates)
            if updates == UPDATES[0]:
                assert len(losses) == updates, losses
        checkpoint = torch.load(folder / "checkpoints" / "checkpoint_last.pt", weights_only=False)
        saved = checkpoint["optimizer_history"][-1]["num_updates"]
    assert len(losses) == saved == UPDATES[-1], (losses, saved)
    print("\n" + json.dumps({**seen, "losses": losses}), flush=True)


if __name__ == "__main__":
    main()

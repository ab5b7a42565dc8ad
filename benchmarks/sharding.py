#!/usr/bin/env python
"""Compare sharded training in stages 1, 2 and 3 with DDP: time, state and memory of a process.

Every way trains in as many processes as --processes says, on the CPU with gloo or on a GPU each
with NCCL, as fairseq-train builds it. The processes of all ways are alive together, and the ways
alternate update by update.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import common
import torch
import torch.distributed as dist
import train_speed
import workers

DDP = "DDP"
OPTIONS = {
    DDP: ["--ddp-backend", "legacy_ddp"],
    **{f"stage {stage}": ["--ddp-backend", "fsdp2", "--shard-stage", stage] for stage in (1, 2, 3)},
}
DEFAULT_ROUNDS = {"cpu": 3, "cuda": 20}


def parse_args() -> argparse.Namespace:
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="gpt_112m_half", help="architecture of fairtale")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--tokens-per-sample", type=int, default=128)
    parser.add_argument("--rows", type=int, default=2, help="rows of a process in a batch")
    parser.add_argument("--update-freq", type=int, default=1, help="batches of an update")
    parser.add_argument("--ways", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    common.add_machine_options(parser)
    args = parser.parse_args()
    # options that the functions of train_speed.py read
    args.criterion, args.optimizer, args.label_smoothing = "label_smoothed_kl", "adam", 0.0
    return args


class Sharded(train_speed.FairseqTraining):
    """One process of a training; a call runs an update together with the others."""

    def __init__(self, args: argparse.Namespace, words: list, rank: int, meeting: str) -> None:
        backend = "gloo"
        if args.device == "cuda":
            torch.cuda.set_device(rank)
            backend = "nccl"
        dist.init_process_group(
            backend, init_method=f"file://{meeting}", rank=rank, world_size=args.processes
        )
        before = workers.peak_mib(torch.device(args.device))
        place = ["--distributed-world-size", args.processes, "--distributed-rank", rank]
        words = [*words, *place, "--distributed-no-spawn", "--device-id", rank]
        super().__init__(args, words, update_freq=args.update_freq)
        self.info.before = before

    def state_mib(self) -> float:
        """Return the MiB of parameters and of the optimizer's state that this process holds."""
        from fairtale.distributed.shards import num_bytes

        state = self.trainer.optimizer.optimizer.state.values()
        tensors = [x for values in state for x in values.values() if torch.is_tensor(x)]
        return num_bytes([*self.trainer.get_model().parameters(), *tensors]) / 2**20


class Together:
    """The processes of a way, timed as one entrant."""

    def __init__(self, args: argparse.Namespace, words: list, meeting: Path) -> None:
        self.workers = [
            workers.Worker(args, Sharded, words, rank, str(meeting))
            for rank in range(args.processes)
        ]
        for worker in self.workers:
            worker.wait()
        self.info = self.workers[0].info

    def timed(self, kind: str) -> float:
        """Run one update in all processes, and return the seconds of the slowest."""
        for worker in self.workers:
            worker.begin(kind)
        return max([worker.end() for worker in self.workers])

    def warm_up(self) -> None:
        """Run the first update, and forget the peak of building the whole model before."""
        self.timed("wall")
        for worker in self.workers:
            worker.ask("forget_peak")

    def most(self, *question: str) -> float:
        """Return the largest answer of the processes."""
        return max(worker.ask(*question) for worker in self.workers)

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.close()


def measure(args: argparse.Namespace, rounds: int, device: torch.device) -> tuple[str, int]:
    """Time all ways; return a table and the number of parameters."""
    ways = [way for way in OPTIONS if way in args.ways]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_rows = 2 * args.rows * args.processes * args.update_freq
        common.write_data_folder(folder, args.vocab, args.tokens_per_sample, num_rows, args.seed)
        entrants = {}
        for number, way in enumerate(ways):
            extra = [*OPTIONS[way], "--update-freq", args.update_freq]
            words = train_speed.our_options(args, name, 0.1, extra=extra)
            entrants[way] = Together(args, words, folder / f"meeting{number}")
        for entrant in entrants.values():
            entrant.warm_up()
        left = common.seconds_left(args)
        seconds = common.alternate(entrants, rounds, 0, device, args.clock, left)
        found = {
            way: (entrant.most("state_mib"), entrant.most("peak"))
            for way, entrant in entrants.items()
        }
        rows, base = [], ways[0]
        for way, entrant in entrants.items():
            state, peak = found[way]
            own = peak - entrant.info.before
            rows.append(
                [
                    way,
                    f"{statistics.median(seconds[way]):.2f}",
                    "1" if way == base else common.ratio(seconds[way], seconds[base]),
                    f"{state:,.0f}",
                    f"{state / found[base][0]:.2f}",
                    f"{peak:,.0f}",
                    f"{own / (found[base][1] - entrants[base].info.before):.2f}",
                ]
            )
            entrant.close()
        parameters = entrants[base].info.parameters
    header = ["way", "s an update", f"beside {base}", "state MiB", f"beside {base}", "peak MiB"]
    return common.table([*header, f"without libraries, beside {base}"], rows), parameters


def main() -> None:
    """Run the benchmark and print its table."""
    # glibc would keep the memory of freed copies, so that all ways had the same resident memory
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 17))
    args = parse_args()
    device = common.settle(args)
    if device.type == "cuda" and torch.cuda.device_count() < args.processes:
        print(f"skipped: --processes {args.processes}, but {torch.cuda.device_count()} GPUs")
        return
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    table, parameters = measure(args, rounds, device)
    tokens = args.rows * args.tokens_per_sample
    notes = (
        f"{args.arch}, V {args.vocab}, {parameters / 1e6:.1f}M parameters, {args.processes} "
        f"processes of {tokens} tokens x {args.update_freq} an update, {args.precision}, Adam, "
        f"clipping; {rounds} rounds, {args.clock} clock. State: parameters and the optimizer's "
        "state that a process holds between updates. Peak: resident memory of a process in the "
        "updates after the first, with MALLOC_MMAP_THRESHOLD_=131072. Ratios are medians over the "
        "rounds (with quartiles)."
    )
    title = f"Sharded training of {args.arch}, {args.precision}, {args.processes} processes"
    common.publish(title, device, f"{table}\n\n{notes}", write=not args.no_write)


if __name__ == "__main__":
    main()

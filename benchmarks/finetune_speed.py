#!/usr/bin/env python
"""Compare the cost of an update in ways of fine-tuning: all layers, the last one, adapters.

Hugging Face's GPT-2 is trained in the same ways in a bare loop, with its adapters from peft.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace

import common
import torch
import train_speed
import workers

DEFAULT_ROWS = {"cpu": 4, "cuda": 32}
DEFAULT_ROUNDS = {"cpu": 5, "cuda": 20}
WARMUP = 1
FULL, RATES, LAST, ADAPTERS = "all layers", "all layers, decaying rates", "last layer", "adapters"
# how fairseq-train is told what to train
OPTIONS = {
    FULL: [],
    RATES: ["--lr-decay-per-group", 0.9],
    LAST: ["--freeze-all-but-last", 1],
    ADAPTERS: ["--lora-rank", 8, "--lora-alpha", 16, "--lora-dropout", 0.0]
    + ["--lora-target", "qkv,out,fc1,fc2"],
}
HF_PREFIX = "Hugging Face, "


def parse_args() -> argparse.Namespace:
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="gpt_112m", help="architecture of fairtale")
    parser.add_argument("--vocabs", type=int, nargs="+", default=[5000, 50000])
    parser.add_argument("--tokens-per-sample", type=int, default=256)
    parser.add_argument("--rows", type=int, help="rows of an update (default: 4, on a GPU 32)")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--ways", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--peers", nargs="*", choices=["hf"], default=["hf"])
    common.add_machine_options(parser)
    args = parser.parse_args()
    # options that the functions of train_speed.py read
    args.criterion, args.optimizer, args.label_smoothing = "label_smoothed_kl", "adam", 0.0
    return args


class Finetuning(train_speed.FairseqTraining):
    """An update as ``fairseq-train`` makes it, and the size of the optimizer's state."""

    def state_mib(self) -> float:
        """Return the MiB of the optimizer's state."""
        return state_mib(self.trainer.optimizer.optimizer)

    def num_trained(self) -> int:
        """Return the number of parameters with a gradient in the last update."""
        parameters = self.trainer.get_model().parameters()
        return sum(p.numel() for p in parameters if p.grad is not None)


class HuggingFaceFinetuning(train_speed.HuggingFaceTraining):
    """GPT-2 in a bare loop, of which all, the last layer or adapters of peft are trained."""

    def __init__(self, args: argparse.Namespace, shape: SimpleNamespace, way: str) -> None:
        super().__init__(args, shape, args.dropout)
        if way == LAST:
            self.model.requires_grad_(False)
            self.model.transformer.h[-1].requires_grad_(True)
            self.model.transformer.ln_f.requires_grad_(True)
        elif way == ADAPTERS:
            import peft

            names = ["c_attn", "c_proj", "c_fc"]
            config = peft.LoraConfig(
                r=8, lora_alpha=16, target_modules=names, fan_in_fan_out=True, lora_dropout=0.0
            )
            self.model = peft.get_peft_model(self.model, config).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=3e-4, fused=True)

    def state_mib(self) -> float:
        """Return the MiB of the optimizer's state."""
        return state_mib(self.optimizer)

    def num_trained(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def state_mib(optimizer: torch.optim.Optimizer) -> float:
    """Return the MiB of an optimizer's state."""
    tensors = [x for state in optimizer.state.values() for x in state.values()]
    return sum(x.numel() * x.element_size() for x in tensors if torch.is_tensor(x)) / 2**20


def possible_ways(args: argparse.Namespace) -> list[str]:
    """Return the ways that this version of fairtale knows; the first is the base of all ratios."""
    common.import_user_dir()
    from user_dir.models.gpt import GPTConfig

    ways = [way for way in OPTIONS if way in args.ways or way == FULL]
    if ADAPTERS in ways and "lora_rank" not in GPTConfig.__dataclass_fields__:
        print("adapters are left out: gpt has no --lora-rank")
        ways.remove(ADAPTERS)
    return ways


def measure(args: argparse.Namespace, ways: list[str], rounds: int, device: torch.device) -> str:
    """Time all ways for the vocabulary ``args.vocab``, and return a table."""
    with tempfile.TemporaryDirectory() as folder:
        common.write_data_folder(
            Path(folder), args.vocab, args.tokens_per_sample, 2 * args.rows, args.seed
        )
        entrants = {}
        for way in ways:
            words = train_speed.our_options(args, folder, args.dropout, extra=OPTIONS[way])
            entrants[way] = workers.Worker(args, Finetuning, words).wait()
        info = entrants[FULL].info
        for way in ways if args.peers else []:
            if way != RATES:
                worker = workers.Worker(args, HuggingFaceFinetuning, info, way)
                entrants[HF_PREFIX + way] = worker.wait()
        seconds = common.alternate(entrants, rounds, WARMUP, device, args.clock)
        rows = []
        for name, worker in entrants.items():
            own = name.removeprefix(HF_PREFIX)
            base = HF_PREFIX + FULL if name != own else FULL
            peer = HF_PREFIX + own
            rows.append(
                [
                    name,
                    f"{worker.ask('num_trained') / 1e6:.1f}M",
                    f"{statistics.median(seconds[name]):.2f}",
                    "1" if name == base else common.ratio(seconds[name], seconds[base]),
                    common.ratio(seconds[peer], seconds[name])
                    if name == own and peer in seconds
                    else "",
                    f"{worker.ask('state_mib'):,.0f}",
                    f"{worker.ask('peak'):,.0f}",
                ]
            )
            worker.close()
    header = ["trained", "parameters", "s an update", "of all layers"]
    header += ["faster than Hugging Face by", "optimizer MiB", "peak MiB"]
    return f"V {args.vocab}, {info.parameters / 1e6:.1f}M parameters:\n\n" + common.table(
        header, rows
    )


def main() -> None:
    """Run the benchmark and print its tables."""
    args = parse_args()
    device = common.settle(args)
    args.rows = args.rows or DEFAULT_ROWS[device.type]
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    if args.peers and common.transformers_or_none() is None:
        args.peers = []
    ways, tables = possible_ways(args), []
    for vocab in args.vocabs:
        args.vocab = vocab
        tables.append(measure(args, ways, rounds, device))
    notes = (
        f"{args.arch}, {args.rows} x {args.tokens_per_sample} tokens an update, {args.precision}, "
        f"dropout {args.dropout:g}, clipping, Adam; {rounds} rounds, {args.clock} clock. "
        "Ratios are medians over the rounds (with quartiles). Adapters: rank 8 in all linear "
        "layers. Hugging Face: torch's fused AdamW, adapters by peft."
    )
    body = "\n\n".join([*tables, notes])
    title = f"Fine-tuning {args.arch}, {args.precision}, {args.threads} threads"
    common.publish(title, device, body, write=not args.no_write)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Compare the speed of generation from prompts of mixed lengths with two peers.

The peers have the same weights: fairseq's own generator, which processes prompts token by token,
and Hugging Face's ``generate`` with prompts padded on the left.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import flops
import torch
import workers
from torch import Tensor, nn
from train_speed import DTYPES, hugging_face_model, stock_shape

DEFAULT_ROUNDS = {"cpu": 5, "cuda": 10}
WARMUP = 1
OURS, STOCK, HF = "fairtale", "fairseq stock generator", "Hugging Face generate"
MODES = {
    "greedy": {"beam": 1},
    "top-k 10": {"beam": 1, "sampling": True, "sampling_topk": 10},
    "beam 5": {"beam": 5},
}
# The logits of an untrained model are almost equal. Scaling them makes the largest one unambiguous.
SHARPNESS = 6.0
BOS, PAD, EOS = 0, 1, 2


def parse_args() -> argparse.Namespace:
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="gpt_story_24m")
    parser.add_argument("--vocab", type=int, default=5120)
    parser.add_argument("--tokens-per-sample", type=int, default=256, help="positions")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--shortest", type=int, default=4, help="tokens of the shortest prompt")
    parser.add_argument("--longest", type=int, default=100, help="tokens of the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens for each prompt")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument(
        "--also", nargs="*", default=[], help="other versions of the folder user_dir to compare"
    )
    parser.add_argument("--peers", nargs="*", choices=["fairseq", "hf"], default=["fairseq", "hf"])
    common.add_machine_options(parser)
    return parser.parse_args()


def make_prompts(args: argparse.Namespace) -> list[Tensor]:
    """Return random prompts, each int64 [S], with evenly spread lengths in random order."""
    generator = torch.Generator().manual_seed(args.seed)
    lengths = torch.linspace(args.shortest, args.longest, args.prompts).round().long()
    lengths = lengths[torch.randperm(args.prompts, generator=generator)]
    return [torch.randint(4, args.vocab, (n,), generator=generator) for n in lengths.tolist()]


def pad(rows: Sequence[Tensor], left: bool = False) -> Tensor:
    """Return rows padded to the same length, int64 [B, S]."""
    width = max(map(len, rows))
    out = torch.full((len(rows), width), PAD)
    for target, row in zip(out, rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        target[place] = row
    return out


# ------------------------------------------------------------------------- equal weights


def stock_weights(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of ``gpt`` under the names of ``transformer_lm``."""
    out = {}
    for name, value in ours.items():
        if name.startswith("embed_positions"):  # fairseq's positions begin after the padding index
            value = torch.cat([value.new_zeros(PAD + 1, value.size(1)), value])
        elif "qkv_proj" in name:
            for part, piece in zip("qkv", value.chunk(3)):
                out["decoder." + name.replace("qkv_proj", f"{part}_proj")] = piece
            continue
        out["decoder." + name] = value
    out["decoder.version"] = torch.tensor([3.0])  # without it fairseq drops the final norm
    out["decoder.output_projection.weight"] = out["decoder.embed_tokens.weight"]
    return out


def hugging_face_weights(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of ``gpt`` under the names of GPT-2, transposed where GPT-2's are."""
    parts = {
        "self_attn.qkv_proj": "attn.c_attn",
        "self_attn.out_proj": "attn.c_proj",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
        "self_attn_layer_norm": "ln_1",
        "final_layer_norm": "ln_2",
    }
    tops = {"embed_tokens": "wte", "embed_positions": "wpe", "layer_norm": "ln_f"}
    out = {}
    for name, value in ours.items():
        module, _, kind = name.rpartition(".")
        if module in tops:
            out[f"transformer.{tops[module]}.{kind}"] = value
            continue
        _, number, part = module.split(".", 2)
        is_linear = value.dim() == 2
        out[f"transformer.h.{number}.{parts[part]}.{kind}"] = value.t() if is_linear else value
    out["lm_head.weight"] = out["transformer.wte.weight"]
    return out


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights, of which no parameter may be missing."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    named = {name for name, _ in model.named_parameters()}
    assert not unexpected and not named.intersection(missing), (missing, unexpected)


# ------------------------------------------------------------------------------- entrants


class FairseqGeneration:
    """A task's own generator and inference step on one padded batch.

    Args:
        args: options of this benchmark.
        words: the command line of ``fairseq-train``, which builds task and model.
    """

    def __init__(self, args: argparse.Namespace, words: Sequence[object]) -> None:
        from fairseq import tasks

        cfg = common.parse_training(words)
        self.args, self.cfg = args, cfg
        self.task = tasks.setup_task(cfg.task)
        self.model = self.task.build_model(cfg.model)
        self.prompts = make_prompts(args)
        self.info = SimpleNamespace(
            width=cfg.model.decoder_embed_dim,
            inner=cfg.model.decoder_ffn_embed_dim,
            layers=cfg.model.decoder_layers,
            heads=cfg.model.decoder_attention_heads,
        )

    def make_ready(self) -> None:
        """Prepare the model as ``fairseq-generate`` does."""
        self.model.to(self.args.device, DTYPES[self.args.precision]).eval()
        self.model.prepare_for_inference_(self.cfg)

    def build_generator(self, mode: str, length: int) -> None:
        """Build the generator.

        Args:
            mode: one of ``MODES``.
            length: exact number of tokens after ``<s>``.
        """
        from fairseq.dataclass.configs import GenerationConfig

        options = GenerationConfig(min_len=length, max_len_a=0, max_len_b=length, **MODES[mode])
        self.generator = self.task.build_generator([self.model], options)

    def __call__(self) -> None:
        """Generate the continuations of all prompts."""
        rows = [torch.cat([p.new_tensor([BOS]), p]) for p in self.prompts]
        device = self.args.device
        sample = {
            "id": torch.arange(len(rows), device=device),
            "nsentences": len(rows),
            "ntokens": sum(map(len, rows)),
            "net_input": {
                "src_tokens": pad(rows).to(device),
                "src_lengths": torch.tensor([len(r) for r in rows], device=device),
            },
            "target": None,
        }
        self.hypotheses = self.task.inference_step(self.generator, [self.model], sample)

    def new_tokens(self) -> list[list[int]]:
        """Return the best continuation of each prompt, without ``</s>``."""
        return [best[0]["tokens"][: self.args.new_tokens].tolist() for best in self.hypotheses]


class OurGeneration(FairseqGeneration):
    """fairtale's model and generator; the first instance writes the weights for all peers."""

    def __init__(self, args: argparse.Namespace, words: Sequence[object], weights: Path) -> None:
        super().__init__(args, words)
        table = self.model.transformer
        with torch.no_grad():
            table.layer_norm.weight *= SHARPNESS
            # Make these as improbable as padding, so that all peers generate the same length.
            table.embed_tokens.weight[[BOS, EOS]] = 0
        if weights.exists():
            table.load_state_dict(torch.load(weights, weights_only=True))
        else:
            torch.save(table.state_dict(), weights)
        self.make_ready()

    def set_mode(self, mode: str) -> None:
        """Prepare a way of decoding."""
        self.build_generator(mode, self.args.new_tokens)


class StockGeneration(FairseqGeneration):
    """fairseq's own language model and generator."""

    def __init__(self, args: argparse.Namespace, words: Sequence[object], weights: Path) -> None:
        super().__init__(args, words)
        load(self.model, stock_weights(torch.load(weights, weights_only=True)))
        self.make_ready()

    def set_mode(self, mode: str) -> None:
        """Prepare a way of decoding."""
        # The length includes the prompt, so shorter prompts get longer continuations.
        self.build_generator(mode, self.args.longest + self.args.new_tokens)

    def new_tokens(self) -> list[list[int]]:
        """Return the first tokens after each prompt, as many as the other peers generate."""
        ends = [len(p) + self.args.new_tokens for p in self.prompts]
        tokens = [best[0]["tokens"].tolist() for best in self.hypotheses]
        return [t[len(p) : end] for t, p, end in zip(tokens, self.prompts, ends)]


class HuggingFaceGeneration:
    """Hugging Face's GPT-2 and its ``generate``."""

    def __init__(self, args: argparse.Namespace, shape: Any, weights: Path) -> None:
        self.args = args
        self.model = hugging_face_model(args, shape, dropout=0.0)
        load(self.model, hugging_face_weights(torch.load(weights, weights_only=True)))
        self.model.to(args.device, DTYPES[args.precision]).eval()
        self.prompts = make_prompts(args)

    def set_mode(self, mode: str) -> None:
        """Prepare a way of decoding."""
        options = MODES[mode]
        self.options = common.transformers_or_none().GenerationConfig(
            max_new_tokens=self.args.new_tokens,
            min_new_tokens=self.args.new_tokens,
            num_beams=options["beam"],
            do_sample=options.get("sampling", False),
            top_k=options.get("sampling_topk"),
            use_cache=True,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )

    @torch.no_grad()
    def __call__(self) -> None:
        """Generate the continuations of all prompts."""
        rows = [torch.cat([p.new_tensor([BOS]), p]) for p in self.prompts]
        tokens = pad(rows, left=True).to(self.args.device)
        self.output = self.model.generate(
            tokens, attention_mask=tokens.ne(PAD).long(), generation_config=self.options
        )

    def new_tokens(self) -> list[list[int]]:
        """Return the best continuation of each prompt."""
        return self.output[:, 1 + self.args.longest :].tolist()


# ---------------------------------------------------------------------------- measurement


def start_entrants(args: argparse.Namespace, folder: str) -> dict[str, workers.Worker]:
    """Start all entrants, and return the workers by name."""
    weights = Path(folder) / "weights.pt"
    words = [
        folder, "--tokens-per-sample", args.tokens_per_sample, "--optimizer", "adam",
        "--max-tokens", 1024, "--dropout", 0, "--attention-dropout", 0, "--seed", args.seed,
    ]  # fmt: skip
    if args.device == "cpu":
        words.append("--cpu")

    def ours(path: str) -> workers.Worker:
        task = ["--user-dir", path, "--task", "story_lm", "--arch", args.arch]
        return workers.Worker(args, OurGeneration, [*words, *task], weights)

    entrants = {OURS: ours(common.USER_DIR)}
    shape = entrants[OURS].wait().info
    for path in args.also:
        entrants[f"{OURS} of {path}"] = ours(path)
    if "fairseq" in args.peers:
        stock = [*words, *stock_shape(shape), "--task", "language_modeling", "--add-bos-token"]
        entrants[STOCK] = workers.Worker(args, StockGeneration, stock, weights)
    if "hf" in args.peers:
        entrants[HF] = workers.Worker(args, HuggingFaceGeneration, shape, weights)
    for name, worker in entrants.items():
        if name != OURS:
            worker.wait()
    return entrants


def agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> str:
    """Return the share of equal tokens, position by position."""
    pairs = [(a, b) for x, y in zip(ours, theirs) for a, b in zip(x, y)]
    return f"{sum(a == b for a, b in pairs) / len(pairs):.0%}"


def measure(
    args: argparse.Namespace,
    entrants: dict[str, workers.Worker],
    mode: str,
    rounds: int,
    device: torch.device,
) -> list[list[str]]:
    """Time one way of decoding, and return rows of the table."""
    for worker in entrants.values():
        worker.ask("set_mode", mode)
        worker.ask("forget_peak")
    left = common.seconds_left(args)
    if left is not None:  # an equal share for each way that is still to come
        left /= len(args.modes) - args.modes.index(mode)
    seconds = common.alternate(entrants, rounds, WARMUP, device, args.clock, left)
    prompts = [1 + len(prompt) for prompt in make_prompts(args)]
    needed = flops.generation_flops(
        args.vocab, entrants[OURS].info, prompts, args.new_tokens, MODES[mode]["beam"]
    )
    peak = common.peak_flops(args)
    tokens = {name: worker.ask("new_tokens") for name, worker in entrants.items()}
    rows = []
    for name, made in tokens.items():
        lengths = {len(row) for row in made}
        assert lengths == {args.new_tokens}, f"{name} made {lengths} tokens a prompt"
        compared = name != OURS
        same = compared and "sampling" not in MODES[mode]
        rows.append(
            [
                f"{mode}: {name}",
                common.rate(args.prompts * args.new_tokens, seconds[name]),
                common.ratio(seconds[name], seconds[OURS]) if compared else "",
                agreement(tokens[OURS], made) if same else "",
                f"{entrants[name].ask('peak'):,.0f}",
            ]
        )
        if peak:
            rows[-1].append(flops.utilisation(needed, statistics.median(seconds[name]), peak))
    return rows


def main() -> None:
    """Run the benchmark and print its table."""
    args = parse_args()
    device = common.settle(args)
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    if args.longest + args.new_tokens >= args.tokens_per_sample:
        raise SystemExit(
            f"error: {args.longest} + {args.new_tokens} tokens do not fit "
            f"--tokens-per-sample {args.tokens_per_sample}"
        )
    if "hf" in args.peers and common.transformers_or_none() is None:
        args.peers.remove("hf")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        common.write_data_folder(Path(folder), args.vocab, 16, 4, args.seed)
        entrants = start_entrants(args, folder)
        for mode in args.modes:
            rows += measure(args, entrants, mode, rounds, device)
        for worker in entrants.values():
            worker.close()

    header = ["", "new tokens/s", f"{OURS} is faster by", f"same tokens as {OURS}", "peak MiB"]
    if peak := common.peak_flops(args):
        header.append(common.mfu_header(peak))
    notes = (
        f"{args.arch}, V {args.vocab}, {args.precision}, {args.prompts} prompts of "
        f"{args.shortest} to {args.longest} tokens in one batch, {args.new_tokens} new tokens each "
        f"(the best hypothesis counts); at most {rounds} rounds, {args.clock} clock. The "
        "weights are random and equal. Ratios are medians over the rounds (with quartiles)."
    )
    title = f"Generation with {args.arch}, {args.precision}, {args.prompts} prompts, "
    title += f"{args.threads} threads"
    body = common.table(header, rows) + "\n\n" + notes
    common.publish(title, device, body, write=not args.no_write)


if __name__ == "__main__":
    main()

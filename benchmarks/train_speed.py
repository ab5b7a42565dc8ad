#!/usr/bin/env python
"""Training tokens/s of a gpt architecture beside its peers, alternating step by step.

Peers: fairseq's own ``transformer_lm_gpt`` of the same shape, through the same Trainer, and
Hugging Face's GPT-2 in a bare loop. Beside them the plain matrix products of one step.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
from pathlib import Path

import common
import torch

# rows of tokens that fit: batch of a step
DEFAULT_ROWS = {"cpu": 8, "cuda": 64}
DEFAULT_ROUNDS = {"cpu": 10, "cuda": 30}
WARMUP = 3


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="gpt_story_24m")
    parser.add_argument("--vocab", type=int, default=5120)
    parser.add_argument("--tokens-per-sample", type=int, default=256)
    parser.add_argument("--rows", type=int, help="rows a step (default: 8, on a GPU 64)")
    parser.add_argument("--criterion", default="label_smoothed_kl", help="ours")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument(
        "--dropouts", type=float, nargs="+", default=[0.1, 0.0], help="one comparison for each"
    )
    parser.add_argument("--compile", action="store_true", help="also ours with --compile")
    parser.add_argument("--peers", nargs="*", choices=["fairseq", "hf"], default=["fairseq", "hf"])
    common.add_machine_options(parser)
    return parser.parse_args()


# -------------------------------------------------------------------------- fairseq-train


def shared_options(args, folder, dropout):
    words = [
        folder, "--user-dir", common.USER_DIR, "--tokens-per-sample", args.tokens_per_sample,
        "--max-tokens", args.rows * args.tokens_per_sample, "--required-batch-size-multiple", 1,
        "--dropout", dropout, "--attention-dropout", 0.0, "--activation-dropout", 0.0,
        "--optimizer", "adam", "--lr", 3e-4, "--clip-norm", 1.0, "--seed", args.seed,
        "--lr-scheduler", "fixed", "--num-workers", 0, "--data-buffer-size", 0,
        "--distributed-world-size", 1, "--save-dir", Path(folder) / "checkpoints",
    ]  # fmt: skip
    if args.precision != "fp32":
        words.append(f"--{args.precision}")
    if args.device == "cpu":
        words.append("--cpu")
    return words


def our_options(args, folder, dropout, extra=()):
    words = ["--task", "story_lm", "--arch", args.arch, "--criterion", args.criterion]
    if args.label_smoothing:
        words += ["--label-smoothing", args.label_smoothing]
    return [*shared_options(args, folder, dropout), *words, *extra]


def stock_options(args, folder, dropout, shape):
    criterion = ["--criterion", "cross_entropy"]
    if args.label_smoothing:
        criterion = ["--criterion", "label_smoothed_cross_entropy"]
        criterion += ["--label-smoothing", args.label_smoothing]
    return [
        *shared_options(args, folder, dropout), *criterion, *stock_shape(shape),
        "--task", "language_modeling", "--sample-break-mode", "none",
    ]  # fmt: skip


def stock_shape(shape):
    """Options that make ``transformer_lm_gpt`` what our architecture is."""
    return [
        "--arch", "transformer_lm_gpt",
        "--decoder-embed-dim", shape.decoder_embed_dim,
        "--decoder-input-dim", shape.decoder_embed_dim,
        "--decoder-output-dim", shape.decoder_embed_dim,
        "--decoder-ffn-embed-dim", shape.decoder_ffn_embed_dim,
        "--decoder-layers", shape.decoder_layers,
        "--decoder-attention-heads", shape.decoder_attention_heads,
        "--activation-fn", "gelu_accurate", "--decoder-normalize-before",
        "--decoder-learned-pos", "--share-decoder-input-output-embed", "--no-scale-embedding",
    ]  # fmt: skip


class FairseqTraining:
    """What ``fairseq-train`` builds of these options, one update a call.

    Batches come from the task's own iterator, beforehand: a worker process of
    ``fairseq-train`` makes them while the last one is trained on.
    """

    def __init__(self, words):
        from fairseq import tasks, utils
        from fairseq.data import iterators
        from fairseq.logging import metrics
        from fairseq.trainer import Trainer

        cfg = common.parse_training(words)
        utils.set_torch_seed(cfg.common.seed)
        task = tasks.setup_task(cfg.task)
        model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
        self.shape = cfg.model
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.trainer = Trainer(cfg, task, model, criterion)
        epoch = self.trainer.get_train_iterator(epoch=1)
        groups = iterators.GroupedIterator(epoch.next_epoch_itr(shuffle=False), 1)
        batches = list(groups)
        self.tokens = [group[0]["ntokens"] for group in batches]
        self._batches = itertools.cycle(batches)
        self._metrics = metrics
        self.trainer.begin_epoch(1)

    def __call__(self):
        with self._metrics.aggregate("train"), self._metrics.aggregate("train_inner"):
            self.trainer.train_step(next(self._batches))


# --------------------------------------------------------------------------- Hugging Face


class HuggingFaceTraining:
    """GPT-2 in a bare loop: loss from labels, clipping, torch's fused AdamW, autocast."""

    def __init__(self, transformers, args, shape, dropout, device):
        config = transformers.GPT2Config(
            vocab_size=args.vocab,
            n_positions=args.tokens_per_sample,
            n_embd=shape.decoder_embed_dim,
            n_layer=shape.decoder_layers,
            n_head=shape.decoder_attention_heads,
            n_inner=shape.decoder_ffn_embed_dim,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=2,
        )
        self.model = transformers.GPT2LMHeadModel(config).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
        self.autocast = contextlib.nullcontext
        if args.precision != "fp32":
            dtype = torch.bfloat16 if args.precision == "bf16" else torch.float16
            self.autocast = lambda: torch.autocast(device.type, dtype)
        rows = (args.rows, args.tokens_per_sample)
        self.batch = torch.randint(4, args.vocab, rows, device=device)

    def __call__(self):
        self.optimizer.zero_grad()
        with self.autocast():
            loss = self.model(input_ids=self.batch, labels=self.batch).loss
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        loss.item()  # it is logged


# ------------------------------------------------------------------------ matrix products


class Products:
    """Every matrix product of one step but attention's, forward and backward, nothing else.

    Args:
        tokens: B x T of a step.
    """

    def __init__(self, shape, vocab_size, tokens, dtype, device):
        width, inner = shape.decoder_embed_dim, shape.decoder_ffn_embed_dim
        layer = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
        sizes = layer * shape.decoder_layers + [(width, vocab_size)]

        def random(*size):
            return torch.randn(*size, dtype=dtype, device=device)

        self.operands = [(random(tokens, i), random(o, i), random(tokens, o)) for i, o in sizes]
        self.results = {o: random(tokens, o) for size in sizes for o in size}
        self.weight_results = {size: random(size[1], size[0]) for size in sizes}
        self.flops = sum(3 * 2 * tokens * i * o for i, o in sizes)

    def __call__(self):
        for x, weight, grad in self.operands:
            out, into = weight.shape
            torch.mm(x, weight.t(), out=self.results[out])
            torch.mm(grad, weight, out=self.results[into])
            torch.mm(grad.t(), x, out=self.weight_results[into, out])


def through_onednn(step):
    """The same with torch's other CPU library, where the plug-in would take it; else None."""
    try:
        from user_dir.modules.fast_gemm import fast_fp32_products, use_onednn
    except ImportError:
        return None
    if not use_onednn():
        return None

    def run():
        with fast_fp32_products():
            step()

    return run


def as_torch_comes(step):
    def run():
        with common.as_torch_comes():
            step()

    return run


# --------------------------------------------------------------------------- measurement


def step_memory(step, device) -> float:
    """MiB that a step needs at its peak above what it finds and leaves; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    common.wait(device)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    common.wait(device)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def entrants(args, folder, device, transformers):
    """Build everything that is timed: {(name, dropout): step}, and our trainings' shape."""
    steps, shape, first = {}, None, None
    for dropout in args.dropouts:
        ours = FairseqTraining(our_options(args, folder, dropout))
        shape, first = ours.shape, first or ours
        steps["fairtale", dropout] = ours
        if args.compile:
            words = our_options(args, folder, dropout, ["--compile"])
            steps["fairtale --compile", dropout] = FairseqTraining(words)
        if "fairseq" in args.peers:
            stock = FairseqTraining(stock_options(args, folder, dropout, shape))
            steps["fairseq transformer_lm_gpt", dropout] = as_torch_comes(stock)
            assert set(stock.tokens) == set(ours.tokens), (stock.tokens, ours.tokens)
        if transformers is not None:
            peer = HuggingFaceTraining(transformers, args, shape, dropout, device)
            steps["Hugging Face GPT-2, bare loop", dropout] = as_torch_comes(peer)
    return steps, first


def main():
    args = parse_args()
    device = common.settle(args)
    args.rows = args.rows or DEFAULT_ROWS[device.type]
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    transformers = common.transformers_or_none() if "hf" in args.peers else None
    tokens = args.rows * args.tokens_per_sample

    with tempfile.TemporaryDirectory() as folder:
        num_rows = 4 * args.rows
        common.write_data_folder(
            Path(folder), args.vocab, args.tokens_per_sample, num_rows, args.seed
        )
        steps, ours = entrants(args, folder, device, transformers)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        products = Products(ours.shape, args.vocab, tokens, dtype[args.precision], device)
        steps["products"] = as_torch_comes(products)
        if args.precision == "fp32" and device.type == "cpu":
            other = through_onednn(products)
            if other is not None:
                steps["products, oneDNN"] = other
        seconds = common.alternate(steps, rounds, WARMUP, device, args.clock)
        memory = {name: step_memory(step, device) for name, step in steps.items()}

    product_names = [name for name in steps if str(name).startswith("products")]
    best = min(product_names, key=lambda name: statistics.median(seconds[name]))
    # PaLM's count (Chowdhery et al. 2022, appendix B): attention as if it were not causal
    width, layers = ours.shape.decoder_embed_dim, ours.shape.decoder_layers
    model_flops = products.flops + 12 * layers * width * args.tokens_per_sample * tokens
    peak = common.peak_flops(device, args.precision)

    rows = []
    for name in steps:
        if name in product_names:
            continue
        entrant, dropout = name
        own = seconds["fairtale", dropout]
        cells = [
            entrant,
            f"{dropout:g}",
            common.rate(tokens, seconds[name]),
            "" if name == ("fairtale", dropout) else common.ratio(seconds[name], own),
            common.ratio(seconds[best], seconds[name]),
        ]
        if device.type == "cuda":
            cells.append(f"{memory[name]:,.0f}")
        if peak:
            cells.append(f"{model_flops / statistics.median(seconds[name]) / peak:.1%}")
        rows.append(cells)
    for name in product_names:
        speed = products.flops / statistics.median(seconds[name]) / 1e9
        label = "matrix products alone" + (", through oneDNN" if "oneDNN" in name else "")
        cells = [f"{label}: {speed:,.0f} GFLOP/s", "", common.rate(tokens, seconds[name]), ""]
        rows.append([*cells, common.ratio(seconds[best], seconds[name])])
        rows[-1] += [""] * ((device.type == "cuda") + bool(peak))

    header = ["", "dropout", "tokens/s", "fairtale is faster by", "share of the products' rate"]
    if device.type == "cuda":
        header.append("MiB of a step")
    if peak:
        header.append(f"MFU of {peak / 1e12:.0f} TFLOP/s")
    notes = (
        f"{args.arch}, V {args.vocab}, {ours.num_parameters / 1e6:.1f}M parameters, "
        f"{args.rows} x {args.tokens_per_sample} tokens a step, {args.precision}, Adam, clipping, "
        f"{rounds} rounds, {args.clock} clock, criterion {args.criterion}, "
        f"label smoothing {args.label_smoothing:g}. "
        f"Products: {products.flops / tokens / 1e6:.0f} MFLOP a token, attention's left out; "
        f"model FLOPs with attention {model_flops / tokens / 1e6:.0f} MFLOP a token. "
        "Ratios are medians over the rounds (with quartiles)."
    )
    title = f"Training {args.arch}, {args.precision}, {args.rows} x {args.tokens_per_sample} tokens"
    body = common.table(header, rows) + "\n\n" + notes
    common.publish(title, device, body, write=not args.no_write)


if __name__ == "__main__":
    main()

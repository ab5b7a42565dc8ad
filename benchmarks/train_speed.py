#!/usr/bin/env python
"""Compare the training speed of a gpt architecture with that of its peers, in alternating steps.

The peers are fairseq's own ``transformer_lm_gpt`` of the same shape in the same Trainer, and
Hugging Face's GPT-2 in a bare training loop. The plain matrix products of one step are timed too.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace

import common
import flops
import torch
import workers

DEFAULT_ROWS = {"cpu": 8, "cuda": 256}
DEFAULT_ROUNDS = {"cpu": 10, "cuda": 30}
WARMUP = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OURS, STOCK, HF = "fairtale", "fairseq transformer_lm_gpt", "Hugging Face GPT-2, bare loop"


def parse_args():
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="gpt_story_24m")
    parser.add_argument("--vocab", type=int, default=5120)
    parser.add_argument("--tokens-per-sample", type=int, default=256)
    parser.add_argument("--rows", type=int, help="rows of a step (default: 8, on a GPU 256)")
    parser.add_argument("--criterion", default="label_smoothed_kl", help="criterion of fairtale")
    parser.add_argument(
        "--optimizer", default="adam", help="optimizer of fairtale; the peers use Adam"
    )
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument(
        "--dropouts", type=float, nargs="+", default=[0.1, 0.0], help="dropout rates to compare"
    )
    parser.add_argument("--compile", action="store_true", help="also time fairtale with --compile")
    parser.add_argument(
        "--also", nargs="*", default=[], help="other versions of the folder user_dir to compare"
    )
    parser.add_argument("--peers", nargs="*", choices=["fairseq", "hf"], default=["fairseq", "hf"])
    common.add_machine_options(parser)
    return parser.parse_args()


# -------------------------------------------------------------------------- fairseq-train


def shared_options(args, folder, dropout):
    """Return the options of ``fairseq-train`` that fairtale and fairseq share."""
    words = [
        folder, "--tokens-per-sample", args.tokens_per_sample,
        "--max-tokens", args.rows * args.tokens_per_sample, "--required-batch-size-multiple", 1,
        "--dropout", dropout, "--attention-dropout", 0.0, "--activation-dropout", 0.0,
        "--lr", 3e-4, "--clip-norm", 1.0, "--seed", args.seed,
        "--lr-scheduler", "fixed", "--num-workers", 0, "--data-buffer-size", 0,
        "--distributed-world-size", 1, "--save-dir", Path(folder) / "checkpoints",
    ]  # fmt: skip
    if args.precision != "fp32":
        words.append(f"--{args.precision}")
    if args.device == "cpu":
        words.append("--cpu")
    return words


def our_options(args, folder, dropout, user_dir=common.USER_DIR, extra=()):
    """Return the options of ``fairseq-train`` for fairtale."""
    words = ["--user-dir", user_dir, "--task", "story_lm", "--arch", args.arch]
    words += ["--criterion", args.criterion, "--optimizer", args.optimizer]
    if args.label_smoothing:
        words += ["--label-smoothing", args.label_smoothing]
    return [*shared_options(args, folder, dropout), *words, *extra]


def stock_options(args, folder, dropout, shape):
    """Return the options of ``fairseq-train`` for stock fairseq."""
    words = ["--optimizer", "adam", "--criterion", "cross_entropy"]
    if args.label_smoothing:
        words = ["--optimizer", "adam", "--criterion", "label_smoothed_cross_entropy"]
        words += ["--label-smoothing", args.label_smoothing]
    words += ["--task", "language_modeling", "--sample-break-mode", "none"]
    return [*shared_options(args, folder, dropout), *words, *stock_shape(shape)]


def stock_shape(shape):
    """Return the options that give ``transformer_lm_gpt`` the shape of our architecture."""
    return [
        "--arch", "transformer_lm_gpt",
        "--decoder-embed-dim", shape.width,
        "--decoder-input-dim", shape.width,
        "--decoder-output-dim", shape.width,
        "--decoder-ffn-embed-dim", shape.inner,
        "--decoder-layers", shape.layers,
        "--decoder-attention-heads", shape.heads,
        "--activation-fn", "gelu_accurate", "--decoder-normalize-before",
        "--decoder-learned-pos", "--share-decoder-input-output-embed", "--no-scale-embedding",
    ]  # fmt: skip


class FairseqTraining:
    """The Trainer that ``fairseq-train`` builds from its options; each call runs one update.

    The batches are made in advance by the iterator of the task, because in ``fairseq-train`` a
    worker process makes them during the previous update.
    """

    def __init__(self, args, words, update_freq=1):
        from fairseq import tasks, utils
        from fairseq.data import iterators
        from fairseq.logging import metrics
        from fairseq.trainer import Trainer

        cfg = common.parse_training(words)
        utils.set_torch_seed(cfg.common.seed)
        task = tasks.setup_task(cfg.task)
        model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
        self.trainer = Trainer(cfg, task, model, criterion)
        epoch = self.trainer.get_train_iterator(epoch=1)
        batches = list(iterators.GroupedIterator(epoch.next_epoch_itr(shuffle=False), update_freq))
        self.info = SimpleNamespace(
            tokens={int(group[0]["ntokens"]) for group in batches},
            parameters=sum(p.numel() for p in model.parameters()),
            width=cfg.model.decoder_embed_dim,
            inner=cfg.model.decoder_ffn_embed_dim,
            layers=cfg.model.decoder_layers,
            heads=cfg.model.decoder_attention_heads,
        )
        self._batches = itertools.cycle(batches)
        self._metrics = metrics
        self.trainer.begin_epoch(1)

    def __call__(self):
        with self._metrics.aggregate("train"), self._metrics.aggregate("train_inner"):
            self.trainer.train_step(next(self._batches))


# --------------------------------------------------------------------------- Hugging Face


class HuggingFaceTraining:
    """GPT-2 in a bare loop: loss from labels, clipping, torch's fused AdamW, autocast."""

    def __init__(self, args, shape, dropout):
        device = torch.device(args.device)
        model = hugging_face_model(args, shape, dropout)
        self.model = model.to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
        self.autocast = contextlib.nullcontext
        if args.precision != "fp32":
            self.autocast = lambda: torch.autocast(device.type, DTYPES[args.precision])
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
        loss.item()  # as for logging


def hugging_face_model(args, shape, dropout):
    """Return GPT-2 of the same shape, with the ids of fairseq's special symbols."""
    transformers = common.transformers_or_none()
    config = transformers.GPT2Config(
        vocab_size=args.vocab,
        n_positions=args.tokens_per_sample,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.inner,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config)


# ------------------------------------------------------------------------ matrix products


class Products:
    """All matrix products of one step except those of attention, forward and backward.

    Args:
        args: the options of this benchmark.
        shape: shape of the model.
        onednn: use oneDNN instead of torch's default library.
    """

    def __init__(self, args, shape, onednn):
        tokens = args.rows * args.tokens_per_sample

        def random(*size):
            return torch.randn(*size, dtype=DTYPES[args.precision], device=args.device)

        sizes = flops.product_sizes(args.vocab, shape)
        self.operands = [(random(tokens, i), random(o, i), random(tokens, o)) for i, o in sizes]
        self.results = {o: random(tokens, o) for size in sizes for o in size}
        self.weight_results = {size: random(size[1], size[0]) for size in sizes}
        if onednn:
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # see modules/fast_gemm.py

    def __call__(self):
        for x, weight, grad in self.operands:
            out, into = weight.shape
            torch.mm(x, weight.t(), out=self.results[out])
            torch.mm(grad, weight, out=self.results[into])
            torch.mm(grad.t(), x, out=self.weight_results[into, out])


def is_onednn_chosen(args) -> bool:
    """Return whether the plug-in uses oneDNN for fp32 products on this machine."""
    if args.device != "cpu" or args.precision != "fp32":
        return False
    common.import_user_dir()
    from fairtale.modules.fast_gemm import use_onednn

    return use_onednn()


# --------------------------------------------------------------------------- measurement


def start_entrants(args, folder):
    """Start all entrants; return ``{(name, dropout) or name: worker}`` and fairtale's info."""
    entrants = {}
    for dropout in args.dropouts:
        words = our_options(args, folder, dropout)
        entrants[OURS, dropout] = workers.Worker(args, FairseqTraining, words)
        if args.compile:
            words = our_options(args, folder, dropout, extra=["--compile"])
            entrants[f"{OURS} --compile", dropout] = workers.Worker(args, FairseqTraining, words)
        for path in args.also:
            words = our_options(args, folder, dropout, path)
            entrants[f"{OURS} of {path}", dropout] = workers.Worker(args, FairseqTraining, words)
    info = entrants[OURS, args.dropouts[0]].wait().info
    for dropout in args.dropouts:
        if "fairseq" in args.peers:
            words = stock_options(args, folder, dropout, info)
            entrants[STOCK, dropout] = workers.Worker(args, FairseqTraining, words)
        if "hf" in args.peers:
            entrants[HF, dropout] = workers.Worker(args, HuggingFaceTraining, info, dropout)
    entrants["matrix products alone"] = workers.Worker(args, Products, info, False)
    if is_onednn_chosen(args):
        entrants["matrix products alone, by oneDNN"] = workers.Worker(args, Products, info, True)
    for name, worker in entrants.items():
        if name != (OURS, args.dropouts[0]):
            worker.wait()
        tokens = getattr(worker.info, "tokens", info.tokens)
        assert tokens == {args.rows * args.tokens_per_sample}, (name, tokens)
    return entrants, info


def report(args, entrants, info, seconds):
    """Return the table and the notes about its settings."""
    tokens = args.rows * args.tokens_per_sample
    product_names = [name for name in entrants if isinstance(name, str)]
    best = min(product_names, key=lambda name: statistics.median(seconds[name]))
    product_flops, model_flops = flops.training_flops(
        args.vocab, info, args.rows, args.tokens_per_sample
    )
    peak = common.peak_flops(args)

    rows = []
    for name, worker in entrants.items():
        share = common.ratio(seconds[best], seconds[name])
        speed = common.rate(tokens, seconds[name])
        if name in product_names:
            rate = product_flops / statistics.median(seconds[name]) / 1e9
            cells = [f"{name}: {rate:,.0f} GFLOP/s", "", speed, "", share, ""]
        else:
            own = seconds[OURS, name[1]]
            gain = "" if name[0] == OURS else common.ratio(seconds[name], own)
            cells = [name[0], f"{name[1]:g}", speed, gain, share, f"{worker.ask('peak'):,.0f}"]
        if peak:
            # The products alone are those of a step without attention.
            own_flops = product_flops if name in product_names else model_flops
            cells.append(flops.utilisation(own_flops, statistics.median(seconds[name]), peak))
        rows.append(cells)

    header = ["", "dropout", "tokens/s", f"{OURS} is faster by", "share of the products' rate"]
    header.append("peak MiB")
    if peak:
        header.append(common.mfu_header(peak))
    notes = (
        f"{args.arch}, V {args.vocab}, {info.parameters / 1e6:.1f}M parameters, "
        f"{args.rows} x {args.tokens_per_sample} tokens a step, {args.precision}, clipping, "
        f"optimizer {args.optimizer}, criterion {args.criterion}, "
        f"label smoothing {args.label_smoothing:g}; "
        f"{len(seconds[best])} rounds, {args.clock} clock. "
        f"Products: {product_flops / tokens / 1e6:.0f} MFLOP a token, attention's left out; "
        f"model FLOPs with attention {model_flops / tokens / 1e6:.0f} MFLOP a token. "
        "Ratios are medians over the rounds (with quartiles)."
    )
    return common.table(header, rows) + "\n\n" + notes


def main():
    """Run the benchmark and print its table."""
    args = parse_args()
    device = common.settle(args)
    args.rows = args.rows or DEFAULT_ROWS[device.type]
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    if "hf" in args.peers and common.transformers_or_none() is None:
        args.peers.remove("hf")
    with tempfile.TemporaryDirectory() as folder:
        common.write_data_folder(
            Path(folder), args.vocab, args.tokens_per_sample, 4 * args.rows, args.seed
        )
        entrants, info = start_entrants(args, folder)
        left = common.seconds_left(args)
        seconds = common.alternate(entrants, rounds, WARMUP, device, args.clock, left)
        body = report(args, entrants, info, seconds)
        for worker in entrants.values():
            worker.close()
    rows = f"{args.rows} x {args.tokens_per_sample} tokens"
    title = f"Training {args.arch}, {args.precision}, {rows}, {args.threads} threads"
    common.publish(title, device, body, write=not args.no_write)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Generation tokens/s for prompts of mixed length beside two peers with the same weights.

Peers: fairseq's stock generator, which is led through the prompts token by token, and
Hugging Face's ``generate`` on prompts padded at the left.
"""

import argparse
import tempfile
from pathlib import Path

import common
import torch
from train_speed import as_torch_comes, stock_shape

DEFAULT_ROUNDS = {"cpu": 5, "cuda": 10}
WARMUP = 1
MODES = {
    "greedy": {"beam": 1},
    "top-k 10": {"beam": 1, "sampling": True, "sampling_topk": 10},
    "beam 5": {"beam": 5},
}
# logits of a fresh model are almost equal: spread, they leave no doubt which is largest
SHARPNESS = 6.0


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="gpt_story_24m")
    parser.add_argument("--vocab", type=int, default=5120)
    parser.add_argument("--tokens-per-sample", type=int, default=256, help="positions")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--shortest", type=int, default=4, help="tokens of the shortest prompt")
    parser.add_argument("--longest", type=int, default=100, help="tokens of the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="made for each prompt")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--peers", nargs="*", choices=["fairseq", "hf"], default=["fairseq", "hf"])
    common.add_machine_options(parser)
    return parser.parse_args()


def build(words):
    """Build the task and the model that these options of ``fairseq-train`` describe."""
    from fairseq import tasks

    cfg = common.parse_training(words)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model), cfg


def ready(model, cfg, args, device):
    """Prepare the model as ``fairseq-generate`` does."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    model.to(device, dtype[args.precision]).eval()
    model.prepare_for_inference_(cfg)
    return model


# ------------------------------------------------------------------------- equal weights


def stock_weights(ours):
    """Name the weights of ``gpt`` as ``transformer_lm`` does."""
    table, out = dict(ours.transformer.named_parameters()), {}
    for name, value in table.items():
        if name.startswith("embed_positions"):  # rows of padding come first
            value = torch.cat([value.new_zeros(2, value.size(1)), value])
        elif "qkv_proj" in name:
            for part, piece in zip("qkv", value.chunk(3)):
                out["decoder." + name.replace("qkv_proj", f"{part}_proj")] = piece
            continue
        out["decoder." + name] = value
    out["decoder.version"] = torch.tensor([3.0])  # without it fairseq drops the final norm
    out["decoder.output_projection.weight"] = out["decoder.embed_tokens.weight"]
    return out


def hugging_face_weights(ours):
    """Name, and turn, the weights of ``gpt`` as GPT-2 does."""
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
    for name, value in ours.transformer.named_parameters():
        module, _, kind = name.rpartition(".")
        if module in tops:
            out[f"transformer.{tops[module]}.{kind}"] = value
            continue
        _, number, part = module.split(".", 2)
        is_linear = value.dim() == 2
        out[f"transformer.h.{number}.{parts[part]}.{kind}"] = value.t() if is_linear else value
    out["lm_head.weight"] = out["transformer.wte.weight"]
    return out


def load(model, weights):
    """Load weights; the only ones that may be missing are buffers without content."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    named = {name for name, _ in model.named_parameters()}
    assert not unexpected and not named.intersection(missing), (missing, unexpected)


# ------------------------------------------------------------------------------- entrants


class FairseqGeneration:
    """A task's own generator and inference step on one padded batch.

    Args:
        length: tokens after the begin mark, the same least and most.
    """

    def __init__(self, task, model, prompts, length, mode, device):
        from fairseq import utils
        from fairseq.dataclass.configs import GenerationConfig

        options = GenerationConfig(min_len=length, max_len_a=0, max_len_b=length, **MODES[mode])
        self.task, self.models = task, [model]
        self.generator = task.build_generator(self.models, options)
        ended = [torch.cat([p, p.new_tensor([task.source_dictionary.eos()])]) for p in prompts]
        dataset = task.build_dataset_for_inference(ended, [len(p) for p in ended])
        sample = dataset.collater([dataset[i] for i in range(len(dataset))])
        self.sample = utils.move_to_cuda(sample) if device.type == "cuda" else sample

    def __call__(self):
        # a task may change the batch it is given
        sample = {**self.sample, "net_input": dict(self.sample["net_input"])}
        self.hypotheses = self.task.inference_step(self.generator, self.models, sample)

    def new_tokens(self, prompts, count, led):
        """Tokens made for each prompt, in the order of the prompts."""
        out = {}
        for number, best in zip(self.sample["id"].tolist(), self.hypotheses):
            tokens = best[0]["tokens"].tolist()
            out[number] = tokens[len(prompts[number]) if led else 0 :][:count]
        return [out[number] for number in range(len(prompts))]


class HuggingFaceGeneration:
    def __init__(self, transformers, model, prompts, count, mode, device):
        rows = [torch.cat([p.new_tensor([0]), p]) for p in prompts]
        width = max(map(len, rows))
        self.tokens = torch.full((len(rows), width), 1, device=device)
        for target, row in zip(self.tokens, rows):
            target[width - len(row) :] = row
        self.mask = self.tokens.ne(1).long()
        options = MODES[mode]
        self.model, self.width, self.count = model, width, count
        self.config = transformers.GenerationConfig(
            max_new_tokens=count,
            min_new_tokens=count,
            num_beams=options["beam"],
            do_sample=options.get("sampling", False),
            top_k=options.get("sampling_topk"),
            use_cache=True,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )

    @torch.no_grad()
    def __call__(self):
        self.output = self.model.generate(
            self.tokens, attention_mask=self.mask, generation_config=self.config
        )

    def new_tokens(self):
        return self.output[:, self.width :].tolist()


def agreement(ours, theirs) -> str:
    """Share of equal tokens, position by position."""
    pairs = [(a, b) for x, y in zip(ours, theirs) for a, b in zip(x, y)]
    return f"{sum(a == b for a, b in pairs) / len(pairs):.0%}"


class Models:
    """One set of weights in every entrant's form."""

    def __init__(self, args, folder, transformers, device):
        words = [
            folder, "--user-dir", common.USER_DIR, "--tokens-per-sample", args.tokens_per_sample,
            "--optimizer", "adam", "--max-tokens", 1024, "--dropout", 0, "--attention-dropout", 0,
        ]  # fmt: skip
        ours = ["--task", "story_lm", "--arch", args.arch]
        self.task, self.model, cfg = build([*words, *ours])
        shape, weights = cfg.model, self.model.transformer
        with torch.no_grad():
            weights.layer_norm.weight *= SHARPNESS
            # like padding's, never among the likely ones: all peers make the same length
            weights.embed_tokens.weight[self.task.dictionary.eos()] = 0
            weights.embed_tokens.weight[self.task.dictionary.bos()] = 0
        self.stock = self.hugging_face = None
        if "fairseq" in args.peers:
            stock = [*stock_shape(shape), "--task", "language_modeling", "--add-bos-token"]
            self.stock_task, self.stock, stock_cfg = build([*words, *stock])
            load(self.stock, stock_weights(self.model))
            ready(self.stock, stock_cfg, args, device)
        if transformers is not None:
            config = transformers.GPT2Config(
                vocab_size=args.vocab,
                n_positions=args.tokens_per_sample,
                n_embd=shape.decoder_embed_dim,
                n_layer=shape.decoder_layers,
                n_head=shape.decoder_attention_heads,
                n_inner=shape.decoder_ffn_embed_dim,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
            )
            self.hugging_face = transformers.GPT2LMHeadModel(config)
            load(self.hugging_face, hugging_face_weights(self.model))
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            self.hugging_face.to(device, dtype[args.precision]).eval()
        ready(self.model, cfg, args, device)


def measure(args, models, prompts, mode, rounds, transformers, device):
    """Time one way of decoding; return rows of the table."""
    count = args.new_tokens
    ours = FairseqGeneration(models.task, models.model, prompts, count, mode, device)
    steps, made = {"fairtale": ours}, {"fairtale": lambda: ours.new_tokens(prompts, count, False)}
    if models.stock is not None:
        stock = FairseqGeneration(
            models.stock_task, models.stock, prompts, args.longest + count, mode, device
        )
        steps["fairseq stock generator"] = as_torch_comes(stock)
        made["fairseq stock generator"] = lambda: stock.new_tokens(prompts, count, True)
    if models.hugging_face is not None:
        peer = HuggingFaceGeneration(
            transformers, models.hugging_face, prompts, count, mode, device
        )
        steps["Hugging Face generate"] = as_torch_comes(peer)
        made["Hugging Face generate"] = peer.new_tokens
    seconds = common.alternate(steps, rounds, WARMUP, device, args.clock)

    tokens = {name: get() for name, get in made.items()}
    for name, rows in tokens.items():
        lengths = {len(row) for row in rows}
        assert lengths == {count}, f"{name} made {lengths} tokens a prompt, not {count}"
    total = len(prompts) * count
    rows = []
    for name in steps:
        is_peer, sampled = name != "fairtale", "sampling" in MODES[mode]
        rows.append(
            [
                f"{mode}: {name}",
                common.rate(total, seconds[name]),
                common.ratio(seconds[name], seconds["fairtale"]) if is_peer else "",
                agreement(tokens["fairtale"], tokens[name]) if is_peer and not sampled else "",
            ]
        )
    return rows


def main():
    args = parse_args()
    device = common.settle(args)
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    transformers = common.transformers_or_none() if "hf" in args.peers else None
    if args.longest + args.new_tokens >= args.tokens_per_sample:
        raise SystemExit(
            f"error: {args.longest} + {args.new_tokens} tokens do not fit "
            f"--tokens-per-sample {args.tokens_per_sample}"
        )
    generator = torch.Generator().manual_seed(args.seed)
    lengths = torch.linspace(args.shortest, args.longest, args.prompts).round().long()
    lengths = lengths[torch.randperm(args.prompts, generator=generator)]
    prompts = [torch.randint(4, args.vocab, (n,), generator=generator) for n in lengths.tolist()]

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        common.write_data_folder(Path(folder), args.vocab, 16, 4, args.seed)
        models = Models(args, folder, transformers, device)
        for mode in args.modes:
            rows += measure(args, models, prompts, mode, rounds, transformers, device)

    header = ["", "new tokens/s", "fairtale is faster by", "same tokens as fairtale"]
    notes = (
        f"{args.arch}, V {args.vocab}, {args.precision}, {args.prompts} prompts of "
        f"{args.shortest} to {args.longest} tokens in one batch, {args.new_tokens} new tokens each "
        f"(the best hypothesis counts), {rounds} rounds, {args.clock} clock. The weights are "
        "random and equal. Ratios are medians over the rounds (with quartiles)."
    )
    title = f"Generation with {args.arch}, {args.precision}, {args.prompts} prompts"
    body = common.table(header, rows) + "\n\n" + notes
    common.publish(title, device, body, write=not args.no_write)


if __name__ == "__main__":
    main()

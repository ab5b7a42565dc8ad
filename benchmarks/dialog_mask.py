"""Compare the speed of a training step of UniLM with that of a causal step.

    python benchmarks/dialog_mask.py                                 # 512 wide, 6 layers
    python benchmarks/dialog_mask.py --embed-dim 768 --layers 12     # unilm_seq2seq_base

The same packed batches of dialogs, composed as in ``dialog_lm``, are passed forward and backward
through the same model: with causal attention, with UniLM's two blocks, and (for comparison) as
padded rows with a full T x T mask. All ways predict the same tokens, so the loss takes the same
time.
"""

import argparse
import sys

import common
import numpy as np
import torch
import torch.nn.functional as F
from fairseq import utils

sys.path.insert(0, str(common.ROOT))


class DenseRows:
    """Attention over padded rows with one boolean mask [M, 1, T, T], for comparison."""

    def __init__(self, pad_index, unpad_index, prefix_lengths):
        self.cells, self.unpad_index = pad_index.view(-1), unpad_index
        self.rows, width = pad_index.shape
        place = torch.arange(width, device=pad_index.device)
        mask = torch.ones(width, width, dtype=torch.bool, device=pad_index.device).tril()
        in_prefix = place < prefix_lengths.unsqueeze(1)  # [M, T]
        both = in_prefix.unsqueeze(1) & in_prefix.unsqueeze(2)
        self.mask = (mask | both).unsqueeze(1)

    def attend(self, attention, qkv):
        """Return the output of the attention for packed rows, like the layouts of fairtale."""
        from fairtale.modules.attention_masks import repack

        x = repack(qkv[0], self.cells, self.unpad_index).view(self.rows, -1, qkv.size(-1))
        q, k, v = attention.split(x)
        p = attention.dropout if attention.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, dropout_p=p)
        y = y.transpose(1, 2).reshape(self.cells.numel(), -1)
        return repack(y, self.unpad_index, self.cells).unsqueeze(0)


def make_batches(count, max_tokens, vocab_size, seed):
    """Return packed batches of random dialogs with the lengths of the Self-dialogue Corpus.

    With three turns of context, its prefixes have 55 +- 30 tokens and its responses 15 +- 9.
    """
    from fairseq.data import Dictionary

    from fairtale.data.dialog.cutting import DialogLimits
    from fairtale.data.dialog.dataset import DialogDataset
    from fairtale.data.dialog.line_format import CTX, SEP

    dictionary = Dictionary()
    for i in range(vocab_size - dictionary.nspecial - 2):
        dictionary.add_symbol(f"w{i}")
    ctx, sep = dictionary.add_symbol(CTX), dictionary.add_symbol(SEP)
    rng = np.random.default_rng(seed)
    prefix = np.clip(rng.lognormal(3.88, 0.5, 20_000), 3, 250).astype(int)
    response = np.clip(rng.lognormal(2.55, 0.55, 20_000), 2, 60).astype(int)
    lines = []
    for p, r in zip(prefix, response):
        words = rng.integers(4, ctx, p + r)
        words[p - 1], words[-1] = sep, dictionary.eos()
        lines.append(torch.from_numpy(words))
    bytes_of = torch.ones(vocab_size, dtype=torch.long)
    limits = DialogLimits(10, 256, 64)
    dataset = DialogDataset(lines, dictionary, ctx, sep, limits, bytes_of, shuffle=False)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens)
    chosen = [batches[i] for i in np.linspace(0, len(batches) - 1, count + 2).astype(int)[1:-1]]
    return [dataset.collater([dataset[i] for i in batch]) for batch in chosen]


def main():
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    common.add_machine_options(parser)
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=5120)
    args = parser.parse_args()
    device = common.settle(args)
    rounds = args.rounds or 12
    common.import_user_dir()
    from fairtale.modules.attention_masks import CausalRows, unilm_rows
    from fairtale.modules.chunked_loss import chunked_cross_entropy
    from fairtale.modules.prefix_transformer import (
        DropoutRates,
        PrefixTransformer,
        TransformerShape,
    )

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.precision]
    width = args.embed_dim
    shape = TransformerShape(width, args.layers, num_heads=width // 64, ffn_dim=4 * width)
    model = PrefixTransformer(args.vocab, 1, 256, shape, DropoutRates(0.1), num_segments=4)
    model.to(device, dtype)
    batches = make_batches(4, args.max_tokens, args.vocab, args.seed)
    tokens = sum(b["ntokens"] for b in batches)

    def net_of(batch):
        net = utils.apply_to_sample(lambda x: x.to(device), batch["net_input"])
        return net, batch["target"].to(device)

    moved = [net_of(b) for b in batches]

    def rows_of(kind, net):
        if kind == "causal":
            return CausalRows(**net["packing"])
        if kind == "blocks":
            sides = net["sides"]
            return unilm_rows(sides["prefix_lengths"], sides["response_lengths"], *sides["longest"])
        return DenseRows(**net["packing"], prefix_lengths=net["sides"]["prefix_lengths"])

    def step(kind):
        def run():
            for net, target in moved:
                model.zero_grad(set_to_none=True)
                rows = rows_of(kind, net)
                x = model(net["src_tokens"], net["positions"], net["segments"], rows)
                weight = model.embed_tokens.weight
                chunked_cross_entropy(x[0], weight, target[0], padding_idx=1).loss.backward()

        return run

    kinds = ("causal", "blocks", "dense")
    seconds = common.alternate({k: step(k) for k in kinds}, rounds, 2, device, args.clock)
    names = {
        "causal": "causal",
        "blocks": "UniLM, two blocks (ours)",
        "dense": "UniLM, T x T mask",
    }
    body = common.table(
        ["step", "tokens/s", "time beside causal"],
        [
            [names[k], common.rate(tokens, seconds[k]), common.ratio(seconds[k], seconds["causal"])]
            for k in kinds
        ],
    )
    fullness = 100 * tokens / sum(b["padded_tokens"] for b in batches)
    body += (
        f"\n\n{width} wide, {args.layers} layers, {args.precision}, {len(batches)} batches of some "
        f"{tokens // len(batches)} tokens, fullness inside attention {fullness:.1f} %; forward and "
        "backward with the loss over every token"
    )
    title = f"UniLM's mask, {width} wide, {args.layers} layers, {args.precision}"
    common.publish(title, device, body, not args.no_write)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Compare the speed of pruned transformers with the unpruned one: encoder and whole decoding.

The weights are random and equal. Heads and units are removed at random, because the choice does not
affect the speed. All models translate the same batch, and all translations have the same length.
"""

import argparse
from types import SimpleNamespace
from typing import Any

import common
import torch

DEFAULT_ROUNDS = {"cpu": 7, "cuda": 20}
WARMUP = 1
UNPRUNED = "unpruned"
PAD, EOS = 1, 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# name -> (share of heads, share of FFN units) to keep
SIZES = {
    "all heads": (1.0, 1.0),
    "1/2 of the heads": (0.5, 1.0),
    "1/4 of the heads": (0.25, 1.0),
    "1/2 of the FFN units": (1.0, 0.5),
    "1/2 of the heads, 1/2 of the FFN units": (0.5, 0.5),
    "1/4 of the heads, 1/2 of the FFN units": (0.25, 0.5),
}


def parse_args() -> argparse.Namespace:
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6, help="layers of encoder and decoder each")
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--ffn-dim", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=8, help="heads of each attention")
    parser.add_argument("--vocab", type=int, default=10000)
    parser.add_argument("--sentences", type=int, default=32, help="sentences of the batch")
    parser.add_argument("--shortest", type=int, default=12, help="tokens of the shortest sentence")
    parser.add_argument("--longest", type=int, default=36, help="tokens of the longest sentence")
    parser.add_argument("--new-tokens", type=int, default=30, help="tokens of each translation")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    common.add_machine_options(parser)
    return parser.parse_args()


class Translation:
    """A model with the two steps to time: its encoder, and the whole decoding of the batch."""

    def __init__(self, args: argparse.Namespace, model: Any) -> None:
        from fairseq.sequence_generator import SequenceGenerator

        self.model = model.to(args.device, DTYPES[args.precision])
        self.num_parameters = sum(p.numel() for p in model.parameters())
        model.prepare_for_inference_(SimpleNamespace(generation=SimpleNamespace(beam=args.beam)))
        self.generator = SequenceGenerator(
            [model],
            model.decoder.dictionary,
            beam_size=args.beam,
            min_len=args.new_tokens,
            max_len_a=0,
            max_len_b=args.new_tokens,
        )
        self.net_input = make_batch(args)

    @torch.no_grad()
    def encode(self) -> None:
        """Run the encoder."""
        self.model.encoder(**self.net_input)

    @torch.no_grad()
    def translate(self) -> None:
        """Translate the batch."""
        hypotheses = self.generator.generate([self.model], {"net_input": self.net_input})
        self.lengths = {len(best["tokens"]) for beams in hypotheses for best in beams}


def make_batch(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Return sentences of evenly spread lengths, padded on the left as in fairseq."""
    generator = torch.Generator().manual_seed(args.seed)
    lengths = torch.linspace(args.shortest, args.longest, args.sentences).round().long()
    tokens = torch.full((args.sentences, args.longest), PAD)
    for row, length in zip(tokens, lengths.tolist()):
        row[-length:-1] = torch.randint(4, args.vocab, (length - 1,), generator=generator)
        row[-1] = EOS
    return {"src_tokens": tokens.to(args.device), "src_lengths": lengths.to(args.device)}


def unpruned_model(args: argparse.Namespace) -> tuple[Any, argparse.Namespace]:
    """Return fairseq's transformer with random weights, and its options."""
    from fairtale.pruning.checkpoint import new_model

    shape = {"arch": "transformer", "share_all_embeddings": True}
    for side in ("encoder", "decoder"):
        shape[f"{side}_layers"] = args.layers
        shape[f"{side}_embed_dim"] = args.embed_dim
        shape[f"{side}_ffn_embed_dim"] = args.ffn_dim
        shape[f"{side}_attention_heads"] = args.heads
    settings = argparse.Namespace(**shape)
    return new_model(settings, args.vocab, args.vocab).eval(), settings


def pruned_model(
    model: Any, settings: argparse.Namespace, heads: float, units: float, seed: int
) -> Any:
    """Return the model with a share of all its heads and of the units of each layer."""
    from fairtale.pruning import removal, selection
    from fairtale.pruning.checkpoint import build_model

    counts, widths = removal.head_counts(model), removal.unit_counts(model)
    scores = selection.random_scores(counts, seed)
    kept = selection.keep_best(scores, round(heads * sum(counts.values())))
    unit_scores = selection.random_scores(widths, seed)
    plan = removal.Plan(kept, selection.keep_share(unit_scores, units))
    weights = removal.prune_state(model.state_dict(), plan, counts, {})
    widths = {key: len(units) for key, units in plan.units.items()}
    return build_model(removal.pruned_settings(settings, plan, widths), weights)


def rows_of(
    entrants: dict[str, Translation], seconds: dict[str, list[float]], count: int
) -> list[list[str]]:
    """Return the rows of a table for ``count`` tokens."""
    base = seconds[UNPRUNED]
    return [
        [
            name,
            f"{entrant.num_parameters / 1e6:.1f}",
            common.rate(count, seconds[name]),
            common.ratio(base, seconds[name]) if name != UNPRUNED else "",
        ]
        for name, entrant in entrants.items()
    ]


def main() -> None:
    """Run the benchmark and print its tables."""
    args = parse_args()
    device = common.settle(args)
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    common.import_user_dir()
    model, settings = unpruned_model(args)
    models = {name: pruned_model(model, settings, *SIZES[name], args.seed) for name in args.sizes}
    # Prepare the models only now: a model that is prepared for inference cannot be pruned.
    entrants = {name: Translation(args, each) for name, each in {UNPRUNED: model, **models}.items()}
    source_tokens = int((make_batch(args)["src_tokens"] != PAD).sum())
    parts = {
        "encode": ("source tokens/s", source_tokens),
        "translate": ("new tokens/s", args.sentences * (args.new_tokens + 1)),
    }
    tables = []
    for step, (unit, count) in parts.items():
        steps = {name: getattr(entrant, step) for name, entrant in entrants.items()}
        seconds = common.alternate(steps, rounds, WARMUP, device, args.clock)
        header = [f"{step}", "million parameters", unit, f"faster than {UNPRUNED} by"]
        tables.append(common.table(header, rows_of(entrants, seconds, count)))
    lengths = set.union(*(entrant.lengths for entrant in entrants.values()))
    assert lengths == {args.new_tokens + 1}, f"translations of {lengths} tokens"
    notes = (
        f"{args.layers} + {args.layers} layers of {args.embed_dim}, {args.heads} heads, FFN "
        f"{args.ffn_dim}, V {args.vocab}, {args.precision}; one batch of {args.sentences} "
        f"sentences of {args.shortest} to {args.longest} tokens, beam {args.beam}, "
        f"{args.new_tokens} new tokens each and the end mark (the best hypothesis counts); "
        f"{rounds} rounds, {args.clock} clock. Random weights; heads go at random from all "
        "attentions together. Unpruned is fairseq's own transformer; all models run in one "
        "process, with the same library for products. Ratios are medians over the rounds (with "
        "quartiles)."
    )
    title = f"Pruned transformers, {args.precision}, {args.sentences} sentences, "
    title += f"{args.threads} threads"
    common.publish(title, device, "\n\n".join([*tables, notes]), write=not args.no_write)


if __name__ == "__main__":
    main()

"""Remove attention heads, feed-forward units and whole layers from a translation model.

CHECKPOINT is a model with --arch transformer_hcg or fairseq's transformer. The result has no gates
(the values of gates are multiplied into the weights) and no optimizer state. To decode with it, use
fairseq-generate --user-dir user_dir --path SMALLER.pt; no further option is needed.

The heads to keep are the N heads with the highest scores (--heads N), or the heads with a score of
at least P (--threshold P), or, by default for a model with gates, the heads whose gates are open.
The score of a head (--by) is
  gates       the probability that its gate is open (default for models with gates)
  confidence  its largest attention weight, averaged over words; needs --data
  gradient    |d loss / d head|, averaged over sentences (Michel et al. 2019); needs --data
  random      a random number, see --seed
The score of a feed-forward unit (--ffn-keep) is |d loss / d unit| with --data, else the magnitude
of its weights. Each layer keeps the same share of its units.
"""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..plugin import register
from ..pruning.methods import MEASURED, METHODS
from ..pruning.parts import HEAD_TYPES, SIDES, place_of, type_of, types_of
from .argument_types import positive_int
from .devices import find_device, to_device
from .files import whole_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..pruning.checkpoint import Checkpoint
    from ..pruning.head_choice import HeadBudget
    from ..pruning.importance import Importance

logger = logging.getLogger(__name__)

RENAMED_OPTIONS = {"--out": "--output", "--tokens": "--max-tokens", "--device": "--cpu"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of the model to prune")
    parser.add_argument("--output", required=True, metavar="SMALLER.pt", help="checkpoint to write")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--heads", type=int, metavar="N", help="number of heads to keep, over all layers together"
    )
    budget.add_argument(
        "--threshold", type=float, metavar="P", help="keep the heads with a score of at least P"
    )
    parser.add_argument("--by", choices=METHODS, help="score of heads, see above")
    parser.add_argument(
        "--types",
        metavar="LIST",
        help="types of attention to which --heads or --threshold applies: a comma-separated list "
        "of encoder, decoder, cross (default: those with gates, or all in a model without gates)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="random seed for --by random and for choosing --max-sentences (default: %(default)s)",
    )
    parser.add_argument(
        "--no-layer-norm",
        action="store_true",
        help="for --by gradient, do not normalise the scores of each layer by their L2 norm "
        "(Michel et al. normalise them)",
    )
    parser.add_argument(
        "--ffn-keep", type=float, metavar="RATIO", help="share of feed-forward units to keep"
    )
    parser.add_argument(
        "--drop-layers",
        metavar="LIST",
        help="layers to remove, counted from 0, e.g. encoder.1,decoder.0",
    )
    data = parser.add_argument_group("data for the scores")
    data.add_argument("--data", metavar="DATA_BIN", help="binarised data of the model's task")
    data.add_argument("--subset", default="valid", help="split of --data (default: %(default)s)")
    data.add_argument(
        "--max-sentences",
        type=positive_int,
        default=1000,
        metavar="N",
        help="maximum number of sentences (default: %(default)s)",
    )
    data.add_argument(
        "--max-tokens",
        type=positive_int,
        default=2000,
        metavar="N",
        help="maximum number of tokens of a batch (default: %(default)s)",
    )
    data.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")


def run(args: Namespace) -> None:
    """Run the verb."""
    _check_numbers(args)
    register()

    from ..pruning import checkpoint as reading
    from ..pruning import removal

    checkpoint = reading.open_checkpoint(args.checkpoint)
    model = checkpoint.model
    counts, gates = removal.head_counts(model), removal.gate_values(model)
    dropped = _dropped_layers(args, model)
    budget = head_budget(args, types_of(gates))
    asked = asked_heads(args, budget, counts, types_of(gates), dropped)
    _check_budget(args, asked, dropped)
    measured = _measure_if_needed(args, budget if asked else None, checkpoint)

    kept = {key: list(range(count)) for key, count in counts.items()}
    if budget is not None and asked:
        kept |= _choose_heads(args, budget, asked, model, measured)
    units = _choose_units(args, model, measured)
    plan = removal.Plan(kept, units, dropped)
    weights = removal.prune_state(model.state_dict(), plan, counts, gates)
    note = {
        "heads": kept,
        "heads_by": budget.by if budget is not None and asked else "none",
        "units_by": ("gradient" if measured else "magnitude") if units else "none",
        "dropped": dropped,
    }
    pruned = reading.pruned_checkpoint(checkpoint, weights, plan, note)
    smaller = reading.load_pruned(pruned)  # check that it loads before the file is written
    import torch

    with whole_file(args.output, "wb") as stream:
        torch.save(pruned, stream)
    _print_summary(args, model, smaller, pruned["cfg"]["model"])


# ------------------------------------------------------------------------------ checks


def _check_numbers(args: Namespace) -> None:
    """Check the options that can be checked before the model is loaded."""
    if args.heads is not None and args.heads < 0:
        raise UserError(f"--heads {args.heads}: must be 0 or more")
    if args.ffn_keep is not None and not 0.0 < args.ffn_keep <= 1.0:
        raise UserError(f"--ffn-keep {args.ffn_keep}: must be above 0 and at most 1")
    if args.types is not None:
        from ..pruning.selection import parse_types

        parse_types(args.types)
    if args.by in MEASURED and args.data is None:
        raise UserError(f"--by {args.by} needs sentences; give --data DATA_BIN")
    if os.path.abspath(args.output) == os.path.abspath(args.checkpoint):
        raise UserError(
            f"--output {args.output}: would replace the checkpoint itself; give another file"
        )
    if os.path.isdir(args.output):
        raise UserError(f"--output {args.output}: is a folder; give a file")


def _dropped_layers(args: Namespace, model: Any) -> dict[str, list[int]]:
    from ..pruning.selection import parse_layers

    num_layers = {side: len(getattr(model, side).layers) for side in SIDES}
    return parse_layers(args.drop_layers or "", num_layers)


def head_budget(args: Namespace, gated: list[str]) -> HeadBudget | None:
    """Return how heads are scored and how many are kept; None if all are kept.

    Args:
        args: the options of this verb.
        gated: types of attention that have gates.

    Raises:
        UserError: the options do not suit the model, or they contradict each other.
    """
    from ..pruning.head_choice import HeadBudget

    limited = args.heads is not None or args.threshold is not None
    by = args.by or ("gates" if gated else None)
    if not gated and (by == "gates" or by is None and limited):
        raise UserError(
            f"{args.checkpoint}: the model has no gates; give --by confidence, gradient or random"
        )
    if by is None:
        if args.ffn_keep is None and not args.drop_layers:
            raise UserError(
                f"{args.checkpoint}: the model has no gates; give what to remove: --heads, "
                "--threshold, --ffn-keep or --drop-layers"
            )
        return None
    if by != "gates" and not limited:
        raise UserError(f"--by {by}: give the heads to keep with --heads or --threshold")
    if by == "random" and args.heads is None:
        raise UserError("--threshold: not possible with --by random; give --heads")
    if METHODS[by].at_most_one and args.threshold is not None and not args.threshold <= 1.0:
        raise UserError(
            f"--threshold {args.threshold}: no head would be kept, because scores of --by {by} "
            "are at most 1; give at most 1, or give --heads"
        )
    return HeadBudget(by, args.heads, args.threshold, args.seed, not args.no_layer_norm)


def asked_heads(
    args: Namespace,
    budget: HeadBudget | None,
    counts: dict[str, int],
    gated: list[str],
    dropped: dict[str, list[int]],
) -> dict[str, int]:
    """Return the number of heads of each attention that may lose heads; empty if all are kept.

    Args:
        args: the options of this verb.
        budget: how heads are scored and how many are kept.
        counts: number of heads of every attention.
        gated: types of attention that have gates.
        dropped: numbers of the layers to remove, by side.

    Raises:
        UserError: ``--by gates`` with ``--types`` that have no gates.
    """
    from ..pruning.selection import parse_types

    if budget is None:
        return {}
    by_gates = budget.by == "gates"
    types = parse_types(args.types) if args.types else gated if by_gates else HEAD_TYPES
    if by_gates and set(types) - set(gated):
        raise UserError(
            f"--types {args.types}: the model only has gates in "
            f"{' and '.join(gated) or 'no attention'}; leave the others out, or give another --by"
        )

    def is_asked(key: str) -> bool:
        side, number, _ = place_of(key)
        return type_of(key) in types and number not in dropped[side]

    return {key: count for key, count in counts.items() if is_asked(key)}


def _check_budget(args: Namespace, asked: dict[str, int], dropped: dict[str, list[int]]) -> None:
    """Check the number of heads to keep before data is read."""
    total = sum(asked.values())
    if args.heads is not None and args.heads > total:
        types = sorted({type_of(key) for key in asked}, reverse=True)
        left = " in the remaining layers" if any(dropped.values()) else ""
        raise UserError(
            f"--heads {args.heads}: the model has only {total} heads{left} ({', '.join(types)} "
            "attention); give at most this number"
        )


# --------------------------------------------------------------------------- choosing


def _choose_heads(
    args: Namespace,
    budget: HeadBudget,
    asked: dict[str, int],
    model: nn.Module,
    measured: Importance | None,
) -> dict[str, list[int]]:
    """Return the heads to keep, and warn if the choice may be unexpected."""
    from ..pruning import head_choice
    from ..pruning.removal import gate_values

    kept = {key: list(range(count)) for key, count in asked.items()}
    kept |= head_choice.choose_heads(budget, asked, model, measured)
    head_choice.warn_of_gates(kept, gate_values(model), asked)
    head_choice.warn_of_types(kept, asked)
    if args.ffn_keep is None and not args.drop_layers:
        head_choice.warn_of_nothing(budget, kept, asked, model)
    return kept


def _choose_units(
    args: Namespace, model: nn.Module, measured: Importance | None
) -> dict[str, list[int]]:
    """Return the feed-forward units to keep; empty if all are kept."""
    from ..pruning.removal import magnitude_of_units
    from ..pruning.selection import keep_share

    if args.ffn_keep is None:
        return {}
    scores: dict[str, Tensor] = measured.units if measured else magnitude_of_units(model)
    return keep_share(scores, args.ffn_keep)


def _measure_if_needed(
    args: Namespace, budget: HeadBudget | None, checkpoint: Checkpoint
) -> Importance | None:
    """Measure heads and units on ``--data`` if a score needs data."""
    if not args.data:
        return None
    by_data = budget is not None and budget.by in MEASURED
    if not by_data and args.ffn_keep is None:
        logger.warning(
            "--data %s: has no effect; only --by %s and --ffn-keep use data",
            args.data,
            ", ".join(MEASURED),
        )
        return None
    measured = _measure(args, checkpoint)
    print(f"scores computed on {measured.num_sentences} sentences of {args.subset}")
    return measured


def _measure(args: Namespace, checkpoint: Checkpoint) -> Importance:
    """Load sentences with the model's own task, and measure heads and units on them."""
    from ..pruning.importance import measure
    from ..pruning.sentences import SentenceOptions, open_sentences

    device = find_device(args.cpu)
    options = SentenceOptions(
        args.data, args.subset, args.max_sentences, args.max_tokens, args.seed
    )
    task, batches = open_sentences(checkpoint, options)
    model = checkpoint.model.to(device)
    dataset, dictionary = task.dataset(args.subset), task.target_dictionary

    def samples() -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield to_device(dataset.collater([dataset[int(i)] for i in batch]), device)

    measured = measure(model, samples(), dictionary.pad(), dictionary.eos())
    model.to("cpu")
    return measured


# ------------------------------------------------------------------------------ report


def _print_summary(
    args: Namespace, before: nn.Module, after: nn.Module, settings: Namespace
) -> None:
    from ..pruning.removal import head_counts, unit_counts

    def of_kind(counts: dict[str, int], kind: str) -> list[int]:
        return [count for key, count in counts.items() if key.startswith(f"{kind}.")]

    def line(name: str, old: list[int], new: list[int]) -> None:
        by_layer = ",".join(map(str, new))
        print(f"{name:<20}  {sum(new)} of {sum(old)} (by layer: {by_layer})")

    for kind in HEAD_TYPES:
        counts = (of_kind(head_counts(model), kind) for model in (before, after))
        line(f"{kind} heads", *counts)
    for side in SIDES:
        line(f"{side} feed-forward", *(of_kind(unit_counts(m), side) for m in (before, after)))
    old, new = (sum(p.numel() for p in model.parameters()) for model in (before, after))
    print(f"{'parameters':<20}  {new:,} of {old:,}")
    old, new = os.path.getsize(args.checkpoint), os.path.getsize(args.output)
    print(f"{'bytes':<20}  {new:,} of {old:,} (without optimizer state)")
    shape = {f"{side}_layers": getattr(settings, f"{side}_layers") for side in SIDES}
    lists = [f"{kind}_layer_heads" for kind in HEAD_TYPES]
    lists += [f"{side}_layer_ffn" for side in SIDES]
    if not any(vars(settings).get(name) for name in lists):  # a plain transformer
        lists = [f"{side}_ffn_embed_dim" for side in SIDES]
    shape |= {name: value for name in lists if (value := vars(settings).get(name))}
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in shape.items())
    print(
        f"{args.output}: to fine-tune it, train with --finetune-from-model, --arch "
        f"transformer_hcg, the other options of the model, --gated-attention '' and {words}"
    )

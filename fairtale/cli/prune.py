"""Remove attention heads, feed-forward units and whole layers from a translation model.

CHECKPOINT is of --arch transformer_hcg or of fairseq's transformer. The result has no gates
(values of gates are multiplied into the weights), holds no optimizer state, and is decoded by
fairseq-generate --user-dir user_dir --path SMALLER.pt with no other option.

Which heads stay: the best N of all (--heads), those of at least P (--threshold), or, of a
model with gates and without either, those whose gates are open. Heads are judged
  gates       by their probability of being open (default, of models with gates)
  confidence  by their largest attention weight, mean over words; needs --data
  gradient    by |d loss / d head|, mean over sentences (Michel et al. 2019); needs --data
  random      at random, see --seed
Feed-forward units (--ffn-keep) are judged by |d loss / d unit| with --data, else by the size
of their weights; each layer keeps the same share of them.
"""

import logging
import os

from ..errors import UserError
from ..plugin import register
from ..pruning.parts import HEAD_TYPES, SIDES, place_of, type_of
from .argument_types import positive_int
from .devices import find_device, to_device
from .files import whole_file

logger = logging.getLogger(__name__)

METHODS = ("gates", "confidence", "gradient", "random")
_MEASURED = ("confidence", "gradient")
_AT_MOST_ONE = ("gates", "confidence")


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--out", required=True, metavar="SMALLER.pt")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--heads", type=int, metavar="N", help="heads that stay, in all layers")
    budget.add_argument(
        "--threshold", type=float, metavar="P", help="heads that score at least this stay"
    )
    parser.add_argument("--by", choices=METHODS, help="how heads are judged")
    parser.add_argument(
        "--types",
        metavar="LIST",
        help="attentions that --heads or --threshold is about: any of encoder, decoder, cross, "
        "with commas between (default: those with gates; without gates all)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of --by random (default: 1)")
    parser.add_argument(
        "--no-layer-norm",
        action="store_true",
        help="compare gradients as they are; by default those of a layer are first divided by "
        "their L2 norm, as Michel et al. do",
    )
    parser.add_argument(
        "--ffn-keep", type=float, metavar="RATIO", help="share of feed-forward units that stays"
    )
    parser.add_argument(
        "--drop-layers", metavar="LIST", help="whole layers that go: encoder.1,decoder.0"
    )
    data = parser.add_argument_group("data to judge by")
    data.add_argument("--data", metavar="DATA_BIN", help="binarised data of the model's task")
    data.add_argument("--subset", default="valid", help="split of it (default: %(default)s)")
    data.add_argument(
        "--max-sentences",
        type=positive_int,
        default=1000,
        help="sentences that are read at most (default: %(default)s)",
    )
    data.add_argument(
        "--tokens", type=positive_int, default=2000, help="tokens of a batch (default: %(default)s)"
    )
    data.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda if there is one)")


def run(args):
    _check_numbers(args)
    register()
    import torch

    from ..pruning import checkpoint as reading
    from ..pruning import removal
    from ..pruning.selection import keep_share

    checkpoint = reading.open_checkpoint(args.checkpoint)
    model = checkpoint.model
    counts, gates = removal.head_counts(model), removal.gate_values(model)
    dropped = _dropped_layers(args, model)
    asked = _asked_heads(args, counts, gates, dropped)
    _check_budget(args, asked, dropped)
    measured = None
    if args.data and (asked and args.by in _MEASURED or args.ffn_keep is not None):
        measured = _measure(args, checkpoint)
        print(f"judged by {measured.num_sentences} sentences of {args.subset}")
    elif args.data:
        logger.warning(
            "--data %s: is not read; only --by %s and --ffn-keep judge by data",
            args.data,
            ", ".join(_MEASURED),
        )

    kept = {key: list(range(count)) for key, count in counts.items()}
    if asked:
        kept |= _choose_heads(args, asked, model, measured)
        _warn_of_gates(kept, gates, asked)
        _warn_of_types(kept, asked)
        _warn_of_nothing(args, kept, asked, model)
    units = {}
    if args.ffn_keep is not None:
        scores = measured.units if measured else removal.magnitude_of_units(model)
        units = keep_share(scores, args.ffn_keep)
    plan = removal.Plan(kept, units, dropped)
    weights = removal.prune_state(model.state_dict(), plan, counts, gates)
    note = {
        "heads": kept,
        "heads_by": args.by if asked else "none",
        "units_by": ("gradient" if measured else "magnitude") if units else "none",
        "dropped": dropped,
    }
    pruned = reading.pruned_checkpoint(checkpoint, weights, plan, note)
    smaller = reading.load_pruned(pruned)  # before a file is written that could not be
    with whole_file(args.out, "wb") as stream:
        torch.save(pruned, stream)
    _print_summary(args, model, smaller, pruned["cfg"]["model"])


# ------------------------------------------------------------------------------ checks


def _check_numbers(args):
    """What can be refused before anything is read."""
    if args.heads is not None and args.heads < 0:
        raise UserError(f"--heads {args.heads}: must be 0 or more")
    if args.ffn_keep is not None and not 0.0 < args.ffn_keep <= 1.0:
        raise UserError(f"--ffn-keep {args.ffn_keep}: must be above 0 and at most 1")
    if args.types is not None:
        from ..pruning.selection import parse_types

        parse_types(args.types)
    if args.by in _MEASURED and args.data is None:
        raise UserError(f"--by {args.by} needs sentences to judge by: add --data DATA_BIN")
    if os.path.abspath(args.out) == os.path.abspath(args.checkpoint):
        raise UserError(f"--out {args.out}: would replace the checkpoint itself; name another file")
    if os.path.isdir(args.out):
        raise UserError(f"--out {args.out}: is a folder; name a file")


def _dropped_layers(args, model):
    from ..pruning.selection import parse_layers

    num_layers = {side: len(getattr(model, side).layers) for side in SIDES}
    return parse_layers(args.drop_layers or "", num_layers)


def _asked_heads(args, counts, gates, dropped):
    """The heads that are to be chosen from, as counts of attentions; empty: all stay."""
    from ..pruning.selection import parse_types

    gated = [kind for kind in HEAD_TYPES if kind in map(type_of, gates)]
    budget = args.heads is not None or args.threshold is not None
    if args.by is None and gated:
        args.by = "gates"
    if not gated and (args.by == "gates" or args.by is None and budget):
        raise UserError(
            f"{args.checkpoint}: has no gates to judge heads by; "
            "say --by confidence, gradient or random"
        )
    if args.by is None:
        if args.ffn_keep is None and not args.drop_layers:
            raise UserError(
                f"{args.checkpoint}: has no gates, so say what goes: --heads, --threshold, "
                "--ffn-keep or --drop-layers"
            )
        return {}
    if args.by != "gates" and not budget:
        raise UserError(f"--by {args.by}: say how many heads stay, by --heads or --threshold")
    if args.by == "random" and args.heads is None:
        raise UserError("--threshold: means nothing with --by random; say --heads")
    if args.by in _AT_MOST_ONE and args.threshold is not None and not args.threshold <= 1.0:
        raise UserError(
            f"--threshold {args.threshold}: no head would stay, for scores of --by {args.by} are "
            "at most 1; give at most 1, or say --heads"
        )
    types = parse_types(args.types) if args.types else gated if args.by == "gates" else HEAD_TYPES
    if args.by == "gates" and set(types) - set(gated):
        raise UserError(
            f"--types {args.types}: the model has gates in {' and '.join(gated) or 'no attention'} "
            "only; leave the others out, or choose another --by"
        )
    chosen = {key: n for key, n in counts.items() if type_of(key) in types}

    def stays(key):
        side, number, _ = place_of(key)
        return number not in dropped[side]

    return {key: n for key, n in chosen.items() if stays(key)}


def _check_budget(args, asked, dropped):
    """Refuse a number of heads that cannot be kept before data is read."""
    total = sum(asked.values())
    if args.heads is not None and args.heads > total:
        types = sorted({type_of(key) for key in asked}, reverse=True)
        left = " in the layers that stay" if any(dropped.values()) else ""
        raise UserError(
            f"--heads {args.heads}: the model has {total} heads{left} ({', '.join(types)} "
            "attention); keep at most as many"
        )


# --------------------------------------------------------------------------- choosing


def _choose_heads(args, asked, model, measured):
    """The heads that stay, of the attentions in ``asked``."""
    from ..pruning import removal, selection

    if args.by == "gates":
        probability, rank = removal.gate_scores(model)
        if args.heads is None:
            threshold = args.threshold
            values = removal.gate_values(model)
            scores = probability if threshold is not None else values
            smallest = threshold if threshold is not None else 1e-30
            return selection.keep_above(
                {key: scores[key] for key, n in asked.items() if n}, smallest
            )
        scores = rank
    elif args.by == "random":
        scores = selection.random_scores(asked, args.seed)
    elif args.by == "confidence":
        scores = measured.confidence
    else:
        scores = measured.gradient
        if not args.no_layer_norm:
            scores = selection.normalize_layers(scores)
    scores = {key: scores.get(key, ()) for key, n in asked.items() if n}
    if args.heads is None:
        return selection.keep_above(scores, args.threshold)
    return selection.keep_best(scores, args.heads)


def _warn_of_gates(kept, gates, asked):
    """Say where the choice differs from what the gates do."""
    gone = closed = 0
    for key in set(asked) & set(gates):
        is_open = set((gates[key] > 0).nonzero().flatten().tolist())
        gone += len(is_open - set(kept[key]))
        closed += len(set(kept[key]) - is_open)
    if gone:
        logger.warning("%d heads go although their gates are open: the output changes", gone)
    if closed:
        logger.warning("%d heads stay although their gates are closed: they add nothing", closed)


def _warn_of_types(kept, asked):
    """Say which kinds of attention lose all their heads."""
    for kind in HEAD_TYPES:
        keys = [key for key in asked if type_of(key) == kind]
        if sum(asked[key] for key in keys) and not any(kept[key] for key in keys):
            logger.warning("all %s heads go: that attention adds nothing but a bias", kind)


def _warn_of_nothing(args, kept, asked, model):
    """Say so where gates were to choose heads that go, and have not chosen any."""
    if args.by != "gates" or args.heads is not None or args.threshold is not None:
        return
    if args.ffn_keep is not None or args.drop_layers:
        return
    stay = sum(len(kept[key]) for key in asked)
    if stay == sum(asked.values()) and not any(g.is_fixed for g in model.gates().values()):
        logger.warning(
            "no head goes: the gates are not fixed, and all %d are open; say --heads or "
            "--threshold, or train with --gates-fix-update",
            stay,
        )


def _measure(args, checkpoint):
    """Read sentences through the model's own task, and measure heads and units on them."""
    from ..pruning.importance import measure

    device = find_device(args.device)
    task, batches = _open_data(args, checkpoint)
    model = checkpoint.model.to(device)
    dataset, dictionary = task.dataset(args.subset), task.target_dictionary

    def samples():
        for batch in batches:
            yield to_device(dataset.collater([dataset[int(i)] for i in batch]), device)

    measured = measure(model, samples(), dictionary.pad(), dictionary.eos())
    model.to("cpu")
    return measured


def _open_data(args, checkpoint):
    import numpy as np
    from fairseq import tasks, utils
    from fairseq.data import data_utils
    from omegaconf import open_dict

    from ..pruning.checkpoint import check_dictionaries

    if not os.path.isdir(args.data.split(os.pathsep)[0]):
        raise UserError(f"--data {args.data}: no such folder")
    with open_dict(checkpoint.cfg):
        checkpoint.cfg.task.data = args.data
    task = tasks.setup_task(checkpoint.cfg.task, from_checkpoint=True)
    if "task_state" in checkpoint.state:
        task.load_state_dict(checkpoint.state["task_state"])
    check_dictionaries(task, checkpoint.state["model"], args.checkpoint, args.data)
    task.load_dataset(args.subset)
    dataset = task.dataset(args.subset)
    # a fair draw: in order of length the first ones would all be short
    indices = np.random.default_rng(args.seed).permutation(len(dataset))[: args.max_sentences]
    model = checkpoint.model
    longest = utils.resolve_max_positions(task.max_positions(), model.max_positions())
    indices, ignored = dataset.filter_indices_by_size(indices, longest)
    if len(indices) == 0:
        raise UserError(f"--subset {args.subset}: no sentence of it fits the model ({longest})")
    lengths = dataset.num_tokens_vec(indices)
    indices = indices[np.argsort(lengths, kind="stable")]
    return task, data_utils.batch_by_size(
        indices, dataset.num_tokens, max_tokens=max(args.tokens, int(lengths.max()))
    )


# ------------------------------------------------------------------------------ report


def _print_summary(args, before, after, settings):
    from ..pruning.removal import head_counts, unit_counts

    def of_kind(counts, kind):
        return [count for key, count in counts.items() if key.startswith(f"{kind}.")]

    def line(name, old, new):
        by_layer = ",".join(map(str, new))
        print(f"{name:<20}  {sum(new)} of {sum(old)} (by layer: {by_layer})")

    for kind in HEAD_TYPES:
        counts = (of_kind(head_counts(model), kind) for model in (before, after))
        line(f"{kind} heads", *counts)
    for side in SIDES:
        line(f"{side} feed-forward", *(of_kind(unit_counts(m), side) for m in (before, after)))
    old, new = (sum(p.numel() for p in model.parameters()) for model in (before, after))
    print(f"{'parameters':<20}  {new:,} of {old:,}")
    old, new = os.path.getsize(args.checkpoint), os.path.getsize(args.out)
    print(f"{'bytes':<20}  {new:,} of {old:,} (without optimizer state)")
    shape = {f"{side}_layers": getattr(settings, f"{side}_layers") for side in SIDES}
    lists = [f"{kind}_layer_heads" for kind in HEAD_TYPES]
    lists += [f"{side}_layer_ffn" for side in SIDES]
    shape |= {name: getattr(settings, name) for name in lists if getattr(settings, name)}
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in shape.items())
    print(
        f"{args.out}: to tune it further, train with --finetune-from-model, --arch "
        f"transformer_hcg, the other options of the model, --gated-attention '' and {words}"
    )

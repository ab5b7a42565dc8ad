"""Remove heads, feed-forward units and layers from the state dict of a transformer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..interfaces import HasGates
from .parts import HEAD_TYPES, SIDES, attention_prefix, attentions, feed_forwards, place_of

ARCHITECTURE = "transformer_hcg"  # architecture of pruned models; supports layers of any width
PLAIN = "transformer"  # fairseq's, in which all layers of a side have the same shape
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass
class Plan:
    """The parts of a transformer that are kept.

    Layers have their original numbers; see :mod:`~fairtale.pruning.parts` for the keys.
    """

    heads: dict[str, list[int]]  # heads to keep, of every attention
    units: dict[str, list[int]] = field(default_factory=dict)  # units to keep, of pruned FFN layers
    dropped: dict[str, list[int]] = field(default_factory=dict)  # layers to remove, of each side

    def layers(self, side: str, count: int) -> list[int]:
        """Return the layers that are kept of a side with ``count`` layers."""
        gone = set(self.dropped.get(side, ()))
        return [number for number in range(count) if number not in gone]


def head_counts(model: nn.Module) -> dict[str, int]:
    """Return the number of heads of every attention."""
    return {key: attention.num_heads for key, attention in attentions(model).items()}


def unit_counts(model: nn.Module) -> dict[str, int]:
    """Return the number of feed-forward units of every layer."""
    return {key: getattr(fc1, "out_features", 0) for key, (fc1, _) in feed_forwards(model).items()}


def gate_values(model: nn.Module) -> dict[str, Tensor]:
    """Return the values [H] of gates in evaluation by attention; empty without gates."""
    gates = model.gates() if isinstance(model, HasGates) else {}
    return {key: gate.value().detach().float() for key, gate in gates.items()}


def gate_scores(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return P(open) of all gates, and scores that rank the heads for a given number of heads.

    The scores rank heads that are fixed open first, then heads that are open in evaluation, then
    closed heads, and heads that are fixed closed last. Within the learned gates, log-alpha decides,
    which also distinguishes gates whose probability is 1 in fp32.
    """
    gates = model.gates() if isinstance(model, HasGates) else {}
    probability = {key: gate.open_probability().detach() for key, gate in gates.items()}
    order = {}
    for key, gate in gates.items():
        is_open = (gate.value() > 0).double()
        first = 1e9 * (2 * is_open - 1) if gate.is_fixed else 1e6 * is_open
        order[key] = gate.log_alpha.detach().double() + first
    return probability, order


def magnitude_of_units(model: nn.Module) -> dict[str, Tensor]:
    """Score feed-forward units [F] by the magnitude of their weights.

    The score is the norm of a unit's input weights times the norm of its output weights. It does
    not change if the input of a ReLU is scaled and its output is scaled inversely.
    """
    scores = {}
    for key, (fc1, fc2) in feed_forwards(model).items():
        if not hasattr(fc1, "weight"):  # no unit is left
            continue
        reads = torch.cat([fc1.weight, fc1.bias[:, None]], 1).detach().float().norm(dim=1)
        scores[key] = reads * fc2.weight.detach().float().norm(dim=0)
    return scores


def prune_state(
    state: dict[str, Tensor], plan: Plan, num_heads: dict[str, int], gates: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state dict of the pruned model.

    A removed head loses its rows of the query, key and value projections and its columns of the
    output projection. The gates of kept heads are multiplied into the output projection, so the
    result has no gates. An attention without heads keeps the bias of its output projection.

    Args:
        state: state dict of a fairseq transformer or ``transformer_hcg``, with current names.
        plan: the parts to keep.
        num_heads: H of every attention.
        gates: values [H] of gated attentions; see :func:`gate_values`.
    """
    state = dict(state)
    for key, kept in plan.heads.items():
        _prune_attention(state, attention_prefix(key), kept, num_heads[key], gates.get(key))
    for key, kept in plan.units.items():
        side, number = key.split(".")
        prefix = f"{side}.layers.{number}."
        index = torch.tensor(kept, dtype=torch.long)
        for name, dim in (("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)):
            state[prefix + name] = state[prefix + name].index_select(dim, index)
    return _drop_layers(state, plan.dropped)


def _prune_attention(
    state: dict[str, Tensor], prefix: str, kept: list[int], num_heads: int, gates: Tensor | None
) -> None:
    for name in [n for n in state if n.startswith(prefix + "gate.")]:
        del state[name]
    if num_heads == 0:
        return
    if not kept:
        for name in [n for n in state if n.startswith(prefix) and n != prefix + "out_proj.bias"]:
            del state[name]
        return
    columns = state[prefix + "out_proj.weight"]
    head_dim = columns.size(1) // num_heads
    index = torch.tensor(kept, dtype=torch.long)
    channels = (index[:, None] * head_dim + torch.arange(head_dim)).flatten()
    for projection in _PROJECTIONS:
        for kind in ("weight", "bias"):
            name = f"{prefix}{projection}.{kind}"
            if name in state:
                state[name] = state[name].index_select(0, channels)
    columns = columns.index_select(1, channels)
    if gates is not None:
        factors = gates[index].repeat_interleave(head_dim)
        columns = (columns.float() * factors).to(columns.dtype)
    state[prefix + "out_proj.weight"] = columns


def _drop_layers(state: dict[str, Tensor], dropped: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Remove layers and renumber the others: if layer 1 is removed, layer 2 becomes layer 1."""
    out = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in SIDES and parts[1] == "layers":
            gone, number = dropped.get(parts[0], ()), int(parts[2])
            if number in gone:
                continue
            parts[2] = str(number - sum(n < number for n in gone))
            name = ".".join(parts)
        out[name] = value
    return out


# -------------------------------------------------------------------------------- settings


def pruned_settings(settings: Namespace, plan: Plan, units: dict[str, int]) -> Namespace:
    """Return the settings of the pruned model.

    If all heads are kept, and all layers of a side have the same number of feed-forward units, the
    result is fairseq's own ``transformer``, which other programs can read.

    Args:
        settings: settings of the original model, under fairseq's flat names (``encoder_layers``).
        plan: the parts to keep.
        units: number of feed-forward units after pruning, of every layer, removed ones included.
    """
    changes: dict[str, Any] = {"_name": ARCHITECTURE, "arch": ARCHITECTURE, "freeze": ""}
    # The noise is for training only, but its option also adds a projection of the embeddings, so it
    # stays. It needs widths that are multiples of its blocks, as any width is of blocks of one.
    changes |= {"gated_attention": "", "quant_noise_pq_block_size": 1}
    for side in SIDES:
        numbers = plan.layers(side, sum(key.startswith(f"{side}.") for key in units))
        changes[f"{side}_layers"] = len(numbers)
        changes[f"{side}_layers_to_keep"] = None
        widths = [units[f"{side}.{number}"] for number in numbers]
        narrow = any(width != getattr(settings, f"{side}_ffn_embed_dim") for width in widths)
        changes[f"{side}_layer_ffn"] = ",".join(map(str, widths)) if narrow else ""
        for kind in HEAD_TYPES:
            keys = [f"{kind}.{number}" for number in numbers]
            if place_of(keys[0])[0] == side and keys[0] in plan.heads:
                heads = [str(len(plan.heads[key])) for key in keys]
                changes[f"{kind}_layer_heads"] = ",".join(heads)
    return _plain(settings, plan, changes) or Namespace(**{**vars(settings), **changes})


def _plain(settings: Namespace, plan: Plan, changes: dict[str, Any]) -> Namespace | None:
    """Return the settings as those of fairseq's ``transformer``, or None if they need our own."""
    own = {name for name in changes if name.endswith(("_layer_heads", "_layer_ffn"))}
    names = {**vars(settings), **changes, "_name": PLAIN, "arch": PLAIN}
    for side in SIDES:
        widths = {width for width in changes[f"{side}_layer_ffn"].split(",") if width}
        if len(widths) > 1 or widths == {"0"}:
            return None
        if widths:
            names[f"{side}_ffn_embed_dim"] = int(widths.pop())
    for kind in HEAD_TYPES:
        counts = set(changes.get(f"{kind}_layer_heads", "").split(",")) - {""}
        side = "encoder" if kind == "encoder" else "decoder"
        if counts - {str(getattr(settings, f"{side}_attention_heads"))}:
            return None
    gone = own | {"gated_attention", "freeze"}
    return Namespace(**{name: v for name, v in names.items() if name not in gone})

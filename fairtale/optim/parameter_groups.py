"""Divide the parameters of a model into groups with learning rates of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UserError
from .finetuning_config import fixed_options, flag
from .finetuning_options import check_options, read_rates
from .layers import LayerGroups, layers_of
from .unfreezing import UnfreezeSchedule, read_schedule


@dataclass(frozen=True)
class Group:
    """Parameters with the same learning rate, which are frozen and trained together."""

    name: str
    parameters: list[nn.Parameter]
    factor: float  # learning rate divided by that of the schedule

    @property
    def num_parameters(self) -> int:
        """The number of values."""
        return sum(p.numel() for p in self.parameters)


@dataclass(frozen=True)
class FinetuningPlan:
    """Which parameters are trained, from when on, and how fast."""

    groups: list[Group]  # from bottom to top, without those that are never trained
    num_frozen: int  # number of values that are never trained
    schedule: UnfreezeSchedule | None
    schedule_text: str  # as given, for messages

    def trained(self, num_updates: int, epoch: int) -> list[bool]:
        """Return for each group whether it is trained now.

        Args:
            num_updates: number of finished updates.
            epoch: number of the epoch, from 1.
        """
        total = len(self.groups)
        count = total if self.schedule is None else self.schedule.num_trained(num_updates, epoch)
        return [place >= total - count for place in range(total)]

    def table(self, lr: float) -> list[str]:
        """Return the lines of a Markdown table of all groups.

        Args:
            lr: the learning rate ``--lr``.
        """
        lines = ["| group | parameters | learning rate | trained from |", "|:--|--:|--:|--:|"]
        for place, group in zip(range(len(self.groups), 0, -1), self.groups):
            start = "the start" if self.schedule is None else self.schedule.start_of(place)
            lines.append(
                f"| {group.name} | {group.num_parameters:,} | {lr * group.factor:g} | {start} |"
            )
        if self.num_frozen:
            lines.insert(2, f"| frozen | {self.num_frozen:,} | 0 | never |")
        return lines


def plan_finetuning(
    model: nn.Module, criterion: nn.Module, optimization: Any
) -> FinetuningPlan | None:
    """Divide the parameters of a model as the options say, and freeze those never trained.

    A parameter that does not require a gradient is not touched and is in no group: the model has
    frozen it itself. Parameters of the criterion belong to the last group.

    Args:
        model: model without wrappers; ``requires_grad`` of its parameters is changed.
        criterion: criterion, which rarely has parameters.
        optimization: config with the options of
            :class:`~fairtale.optim.finetuning_config.FinetuningConfig` and ``lr``.

    Returns:
        The plan, or None if no option of fine-tuning is given.

    Raises:
        UserError: the model does not name its layers, or has too few for the options.
    """
    options = fixed_options(optimization)
    if not options:
        return None
    check_options(optimization)  # again, because not every program parses a command line
    parts = layers_of(model)
    parts[-1][1].extend(criterion.parameters())
    named = _divide(parts, options)
    factors = _factors(options, len(named), float(optimization.lr[0]))
    text, schedule, num_never = options.get("unfreeze_schedule", ""), None, 0
    if text:
        schedule = read_schedule(text, len(named))
        max_update, max_epoch = optimization.max_update or 0, optimization.max_epoch or 0
        schedule.check_end(text, max_update, max_epoch, 0)
        num_never = len(named) - schedule.counts[-1]
    kept = {id(p) for _, parameters in named[num_never:] for p in parameters}
    everything = [p for _, parameters in parts for p in parameters]
    for parameter in everything:
        if id(parameter) not in kept:
            parameter.requires_grad = False
    groups = [
        Group(name, [p for p in parameters if p.requires_grad], factor)
        for (name, parameters), factor in zip(named[num_never:], factors[num_never:])
    ]
    num_frozen = sum(p.numel() for p in everything if not p.requires_grad)
    plan = FinetuningPlan(groups, num_frozen, schedule, text)
    first = zip(plan.trained(0, 1), groups)
    if not any(group.parameters for trained, group in first if trained):
        raise UserError(
            f"{' '.join(map(flag, options))}: no parameter is trained at the start, because the "
            "model itself freezes those of the last groups: leave its own freezing out"
        )
    return plan


def _divide(parts: LayerGroups, options: dict[str, Any]) -> LayerGroups:
    """Return the groups that may be trained, from bottom to top."""
    embeddings, layers, top = parts[0], parts[1:-1], parts[-1]
    num_last = options.get("freeze_all_but_last", len(layers))
    if num_last > len(layers):
        raise UserError(
            f"--freeze-all-but-last {num_last}: the model has {len(layers)} layers; use at most as "
            "many, or leave it out to train the embeddings as well"
        )
    layers = layers[len(layers) - num_last :]
    apart = options.keys() & {"lr_decay_per_group", "lr_per_group", "unfreeze_schedule"}
    num_groups = options.get("finetune_groups", num_last if apart else 1)
    if num_groups > num_last:
        raise UserError(
            f"--finetune-groups {num_groups}: more groups than the {num_last} layers that are "
            f"trained (the embeddings are one more group): use at most {num_last}"
        )
    groups, start = [], 0
    for place in range(num_groups):
        size = num_last // num_groups + (place < num_last % num_groups)
        chunk = layers[start : start + size]
        name = _name(chunk[0][0], chunk[-1][0])
        groups.append((name, [p for _, parameters in chunk for p in parameters]))
        start += size
    groups[-1][1].extend(top[1])
    return groups if "freeze_all_but_last" in options else [embeddings, *groups]


def _name(first: str, last: str) -> str:
    """Return the name of a group of layers: layer_3, or layer_3_to_5."""
    if first == last:
        return first
    kind, _, number = last.rpartition("_")
    return f"{first}_to_{number if first.startswith(kind + '_') else last}"


def _factors(options: dict[str, Any], num_groups: int, lr: float) -> list[float]:
    """Return the factors of the groups' learning rates, from bottom to top."""
    if "lr_per_group" not in options:
        decay = options.get("lr_decay_per_group", 1.0)
        return [decay ** (num_groups - 1 - place) for place in range(num_groups)]
    text = options["lr_per_group"]
    rates = read_rates(text)
    if len(rates) != num_groups:
        raise UserError(
            f"--lr-per-group {text}: {len(rates)} rates for {num_groups} groups: give one for each "
            "group, from the lowest (the embeddings, unless they are frozen) to the last layers, "
            "or set --finetune-groups"
        )
    return [rate / lr for rate in rates]

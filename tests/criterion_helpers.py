"""Criterions built as fairseq-train builds them: from a config that holds every option."""

import dataclasses

import torch

from user_dir.criterions.l0_gated import L0GatedCriterion, L0GatedCriterionConfig
from user_dir.criterions.label_smoothed_kl import (
    LabelSmoothedKLCriterion,
    LabelSmoothedKLCriterionConfig,
)
from user_dir.criterions.unlikelihood import UnlikelihoodCriterion, UnlikelihoodCriterionConfig

NUM_SYMBOLS, PAD = 12, 1  # of the dictionary in the tests of criterions

# What options of other parts of a command are without one: their default is a reference.
OF_OTHERS = {
    "sentence_avg": False,
    "seed": 1,
    "max_update": 0,
    "save_dir": "checkpoints",
    "tensorboard_logdir": None,
}


def config(kind, **options):
    """Return a config of a dataclass, with the defaults of what is not given."""
    names = {field.name for field in dataclasses.fields(kind)}
    references = {name: value for name, value in OF_OTHERS.items() if name in names}
    return kind(**{**references, **options})


def smoothed_kl(task, **options):
    """Return a ``label_smoothed_kl`` criterion."""
    return LabelSmoothedKLCriterion(config(LabelSmoothedKLCriterionConfig, **options), task)


def unlikelihood(task, **options):
    """Return an ``unlikelihood`` criterion."""
    return UnlikelihoodCriterion(config(UnlikelihoodCriterionConfig, **options), task)


def l0_gated(task, **options):
    """Return an ``l0_gated`` criterion."""
    return L0GatedCriterion(config(L0GatedCriterionConfig, **options), task)


def fields_read(criterion, kind, task):
    """Return the names of a config's fields, and those that building the criterion reads."""
    read = set()

    class Recorder(kind):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    cfg = config(Recorder)
    read.clear()
    criterion.build_criterion(cfg, task)
    fields = {field.name for field in dataclasses.fields(kind)} - {"_name"}
    return fields, read & fields


def make_sample(rows=((4, 5, 6, 7, 2), (8, 9, 2)), width=5):
    """Return a batch of these targets, padded to ``width``."""
    target = torch.full((len(rows), width), PAD)
    for i, row in enumerate(rows):
        target[i, : len(row)] = torch.tensor(row)
    return {
        "net_input": {"src_tokens": target.roll(1, 1), "src_lengths": None},
        "target": target,
        "ntokens": sum(map(len, rows)),
        "nsentences": len(rows),
        "nbytes": 21,
        "nwords": 3,
        "padded_tokens": target.numel(),
    }


def close(actual, expected, **kwargs):
    """Compare two numbers or tensors as fp64."""
    torch.testing.assert_close(
        torch.as_tensor(actual).double(), torch.as_tensor(expected).double(), **kwargs
    )

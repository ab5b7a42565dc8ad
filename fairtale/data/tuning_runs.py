"""Read what fine-tuned models reached and what they needed from the logs of their trainings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ..errors import UserError
from .training_log import last_validation, read_log

LOG_NAME = "train.log"


@dataclass(frozen=True)
class TuningRun:
    """The last validation of one training, and its cost.

    A model that was validated as it is has no updates, and no time and memory of training.
    """

    path: str
    updates: int
    ppl: float  # per token
    ppl_word: float | None
    bpb: float | None  # bits per byte of text
    trained_params: int
    seconds: float | None  # of training, without validation
    peak_mib: float | None


@dataclass(frozen=True)
class Setting:
    """One way to fine-tune, and its runs with different seeds."""

    name: str
    runs: tuple[TuningRun, ...]

    def values(self, measure: str) -> list[float]:
        """Return a measure of all runs that have it."""
        found = [getattr(run, measure) for run in self.runs]
        return [value for value in found if value is not None]


def read_run(path: str, subset: str | None = None) -> TuningRun:
    """Read the log of a training, or of ``fairseq-validate`` for a model as it is.

    Args:
        path: a log, or a folder with ``train.log``.
        subset: the validation subset; None means any.

    Raises:
        UserError: the log does not exist, or holds no validation with a perplexity.
    """
    log = os.path.join(path, LOG_NAME) if os.path.isdir(path) else path
    stats = last_validation(log, subset)
    if "ppl" not in stats:
        raise UserError(
            f"{log}: its validation has no ppl; train with --criterion label_smoothed_kl"
        )
    updates = int(stats.get("num_updates", 0))
    times = []
    if updates:
        # a validation that fairseq-train logs knows its update, that of fairseq-validate does not
        curves = read_log(log)
        times = [value for _, value in curves.get(("train", "train_wall"), [])]
        if "trained_params" not in stats:
            raise UserError(f"{log}: its validation has no trained_params; train it again")
    return TuningRun(
        path,
        updates,
        stats["ppl"],
        stats.get("ppl_word"),
        stats.get("bpb"),
        int(stats["trained_params"]) if updates else 0,
        sum(times) if times else None,  # each entry is the time since the one before
        stats.get("peak_mib"),
    )


def check_comparable(settings: Sequence[Setting]) -> None:
    """Refuse settings whose trainings have different numbers of updates.

    Raises:
        UserError: two trainings have different numbers of updates.
    """
    trained = [run for setting in settings for run in setting.runs if run.updates]
    for run in trained:
        if run.updates != trained[0].updates:
            raise UserError(
                f"{run.path} was validated after {run.updates} updates, {trained[0].path} after "
                f"{trained[0].updates}: compare trainings of the same length; does one still run?"
            )


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Return the mean, and the standard deviation if there are several values; ``-`` for none."""
    if not values:
        return "-"
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"

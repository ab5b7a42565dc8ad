"""Sentences that heads and units are judged by, read through the model's own task."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from fairseq import tasks, utils
from fairseq.data import data_utils
from omegaconf import open_dict

from ..errors import UserError
from .checkpoint import Checkpoint, check_dictionaries


@dataclass(frozen=True)
class SentenceOptions:
    """Which sentences are read."""

    data: str  # a folder with binarised data, or several joined by ":"
    subset: str  # split of it
    max_sentences: int
    max_tokens: int  # of a batch
    seed: int  # of the choice of sentences


def open_sentences(checkpoint: Checkpoint, options: SentenceOptions) -> tuple[Any, Any]:
    """Return the task with the split loaded, and batches of sentence numbers, short ones first.

    Args:
        checkpoint: with its model; its config is changed to name the data.

    Raises:
        UserError: no such data, another dictionary than the checkpoint's, or no sentence that
            fits the model.
    """
    data, subset = options.data, options.subset
    if not os.path.isdir(data.split(os.pathsep)[0]):
        raise UserError(f"--data {data}: no such folder")
    with open_dict(checkpoint.cfg):
        checkpoint.cfg.task.data = data
    task = tasks.setup_task(checkpoint.cfg.task, from_checkpoint=True)
    if "task_state" in checkpoint.state:
        task.load_state_dict(checkpoint.state["task_state"])
    check_dictionaries(task, checkpoint.state["model"], checkpoint.path, data)
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    # chosen at random: in order of length the first ones would all be short
    order = np.random.default_rng(options.seed).permutation(len(dataset))
    longest = utils.resolve_max_positions(task.max_positions(), checkpoint.model.max_positions())
    indices, _ = dataset.filter_indices_by_size(order[: options.max_sentences], longest)
    if len(indices) == 0:
        raise UserError(f"--subset {subset}: no sentence of it fits the model ({longest})")
    lengths = dataset.num_tokens_vec(indices)
    indices = indices[np.argsort(lengths, kind="stable")]
    max_tokens = max(options.max_tokens, int(lengths.max()))
    return task, data_utils.batch_by_size(indices, dataset.num_tokens, max_tokens=max_tokens)

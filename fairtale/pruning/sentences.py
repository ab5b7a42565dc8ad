"""Load the sentences on which the importance of heads and units is measured."""

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
    """Options for choosing sentences."""

    data: str  # folder with binarised data, or several folders separated by ":"
    subset: str  # split of the data
    max_sentences: int
    max_tokens: int  # maximum number of tokens in a batch
    seed: int  # random seed for choosing sentences


def open_sentences(checkpoint: Checkpoint, options: SentenceOptions) -> tuple[Any, Any]:
    """Return the checkpoint's task with the split loaded, and batches of sentence numbers.

    The batches are sorted by length, the shortest sentences first.

    Args:
        checkpoint: checkpoint with its model. The data folder in its config is replaced.
        options: options for choosing sentences.

    Raises:
        UserError: the data do not exist or have another dictionary than the checkpoint, or no
            sentence fits the model.
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
    # choose at random, because the first sentences in order of length would all be short
    order = np.random.default_rng(options.seed).permutation(len(dataset))
    longest = utils.resolve_max_positions(task.max_positions(), checkpoint.model.max_positions())
    indices, _ = dataset.filter_indices_by_size(order[: options.max_sentences], longest)
    if len(indices) == 0:
        raise UserError(f"--subset {subset}: no sentence is short enough for the model ({longest})")
    lengths = dataset.num_tokens_vec(indices)
    indices = indices[np.argsort(lengths, kind="stable")]
    max_tokens = max(options.max_tokens, int(lengths.max()))
    return task, data_utils.batch_by_size(indices, dataset.num_tokens, max_tokens=max_tokens)

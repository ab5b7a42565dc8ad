"""fairseq's trainer of a tiny model, as ``fairseq-train`` builds it, for tests of fine-tuning."""

from pathlib import Path

import torch
from fairseq import options, tasks, utils
from fairseq.data import iterators
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer

import user_dir
from tests.helpers import random_rows, tiny_dictionary, write_split

MODEL = (
    "--task story_lm --arch gpt_tiny --decoder-layers 4 --decoder-embed-dim 16 "
    "--decoder-ffn-embed-dim 32 --decoder-attention-heads 2 --tokens-per-sample 16 --dropout 0 "
    "--criterion label_smoothed_kl --optimizer adam --weight-decay 0.1 --lr 0.01 --cpu "
    "--batch-size 4 --required-batch-size-multiple 1 --num-workers 0 --data-buffer-size 0"
).split()
NUM_GROUPS = 5  # embeddings and four layers


def write_data(folder: Path) -> Path:
    """Write a data folder with 16 rows of up to 10 random words; return it."""
    dictionary = tiny_dictionary()
    dictionary.save(str(folder / "dict.txt"))
    rows = random_rows([3 + number % 8 for number in range(16)], len(dictionary))
    write_split(folder, "train", rows, len(dictionary))
    return folder


def parse(*words):
    """Parse a command line of ``fairseq-train``."""
    parser = options.get_training_parser()
    return options.parse_args_and_arch(parser, [str(word) for word in words])


def build_trainer(folder, *words, update_freq=1, model=MODEL, **changes):
    """Return a trainer and its batches, four an epoch, as lists for each update.

    Args:
        folder: see :func:`write_data`.
        words: options that come after those of ``MODEL``.
        update_freq: number of batches in each update.
        model: options of the data, the model and the optimizer.
        changes: attributes of the model to set.
    """
    assert user_dir.finetuning_hooks
    cfg = convert_namespace_to_omegaconf(parse(folder, *model, *words))
    add_defaults(cfg)
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    built, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    for name, value in changes.items():
        setattr(built, name, value)
    trainer = Trainer(cfg, task, built, criterion)
    epoch = trainer.get_train_iterator(epoch=1)
    batches = list(iterators.GroupedIterator(epoch.next_epoch_itr(shuffle=False), update_freq))
    trainer.begin_epoch(1)
    return trainer, batches


def update(trainer, batches, count):
    """Make updates with the batches in turn; return the log's values after the last one."""
    for _ in range(count):
        with metrics.aggregate(new_root=True) as log:
            trainer.train_step(batches[trainer.get_num_updates() % len(batches)])
    return log.get_smoothed_values()


def weights(trainer):
    """Return copies of the model's parameters by name."""
    return {name: p.detach().clone() for name, p in trainer.get_model().named_parameters()}


def changed(before, after):
    """Return the names of the parameters that differ in any bit."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def group_of(name):
    """Return the group, from 0 (the embeddings) to 4, of a parameter of the tiny ``gpt``."""
    parts = name.split(".")
    if "layers" in parts:
        return 1 + int(parts[2])
    return 0 if parts[1].startswith("embed_") else NUM_GROUPS - 1

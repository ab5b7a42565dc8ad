#!/usr/bin/env python
"""Measure the fullness of batches of dialogs: the share of real tokens in one epoch, in percent.

Prefixes and responses are padded separately, as in attention. Nothing is timed: the figures depend
only on the data and the seed.
"""

import argparse

import common
import numpy as np


def parse_args():
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a data folder of dialog_lm")
    parser.add_argument("--subset", default="train", help="split of the data")
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[2048, 4096, 16384])
    parser.add_argument("--max-context-turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    return parser.parse_args()


def load(args):
    """Return the dataset of a split."""
    from user_dir.tasks.dialog_lm import DialogLMConfig, DialogLMTask

    cfg = DialogLMConfig(data=args.data, max_context_turns=args.max_context_turns)
    task = DialogLMTask.setup_task(cfg)
    task.load_dataset(args.subset)
    return task.dataset(args.subset)


def of_fixed_size(order, count):
    """Split indices into batches of ``count`` rows."""
    return [order[i : i + count] for i in range(0, len(order), count)]


def main():
    """Run the benchmark and print its table."""
    args = parse_args()
    common.import_user_dir()
    from fairseq.data import data_utils

    dataset = load(args)
    sizes, indices = dataset.sizes, dataset.indices
    np.random.seed(args.seed)
    shuffled = np.random.permutation(indices)
    by_length = shuffled[np.argsort(sizes[shuffled], kind="stable")]
    real = int(sizes[indices].sum())

    def fullness(batches):
        """Return the share of real tokens if both sides are padded to their longest in a batch."""
        cells = 0
        for batch in batches:
            prefix, response = dataset.prefix_sizes[batch], dataset.response_sizes[batch] - 1
            cells += len(batch) * (int(prefix.max()) + int(response.max()))
        return f"{100 * real / cells:.1f}"

    rows = []
    for max_tokens in args.max_tokens:
        # The number of rows that hold max_tokens on average.
        count = max(1, round(max_tokens * len(indices) / real))
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens)
        stock = data_utils.batch_by_size(
            by_length, dataset.num_tokens, dataset.num_tokens_vec(by_length), max_tokens
        )
        fixed = (of_fixed_size(order, count) for order in (by_length, shuffled))
        figures = map(fullness, (batches, stock, *fixed))
        rows.append([f"{max_tokens:,}", f"{len(batches):,}", *figures])
    header = ["`--max-tokens`", "batches", "`dialog_lm`", "sorted by length, `--max-tokens`"]
    header += ["sorted, batches of equal size", "unsorted, of equal size"]
    print(common.table(header, rows))
    print(f"\n{args.subset} of {args.data}: {len(indices):,} dialogs, {real:,} tokens")


if __name__ == "__main__":
    main()

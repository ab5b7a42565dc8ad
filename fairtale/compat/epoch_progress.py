"""Go on in the middle of an epoch with another number of workers, or another ``--update-freq``."""

import functools
import hashlib
import math
from typing import Any

import numpy as np
from fairseq.data.iterators import EpochBatchIterator, GroupedIterator, ShardedIterator

from ..errors import UserError

BATCHES = "batches"  # in a checkpoint: number of batches that all workers have used in the epoch
ALL = "batches_in_epoch"  # their number in the epoch
WORKERS = "workers"  # their number
FINGERPRINT = "batches_fingerprint"  # of all batches, in the order before shuffling


def cure_lost_progress() -> None:
    """Count the progress in an epoch in batches of all workers.

    fairseq counts the batches that each worker has used. With fewer workers than before, the
    resumed training uses some samples again without a warning; with more, it fails with "dataloader
    mismatch", or leaves samples out. The division of an epoch's batches among workers does not
    change the batches nor their order, so that the number of batches that all workers have used
    tells where to go on. Checkpoints without this number are read as before. Remove this
    work-around once fairseq's iterators count so.
    """
    save, load = EpochBatchIterator.state_dict, EpochBatchIterator.load_state_dict
    order = EpochBatchIterator.ordered_batches

    @functools.wraps(save)
    def state_dict(self: Any) -> dict[str, Any]:
        used = 0 if self.end_of_epoch() else _used(self)
        return {
            **save(self),
            BATCHES: used,
            ALL: len(self.frozen_batches),
            WORKERS: self.num_shards,
            FINGERPRINT: _fingerprint(self),
        }

    @functools.wraps(load)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        used = state_dict.get(BATCHES)
        self._went_on = None
        if not used:
            load(self, state_dict)
            return
        self.epoch = state_dict["epoch"]
        _check(self, state_dict)
        remaining = math.ceil((state_dict[ALL] - used) / self.num_shards)
        start = len(self) - remaining
        self._went_on = (self.epoch, used, start)
        self._next_epoch_itr = self._get_iterator_for_epoch(
            self.epoch, shuffle=state_dict.get("shuffle", True), offset=start
        )

    @functools.wraps(order)
    def ordered_batches(self: Any, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> Any:
        went_on = getattr(self, "_went_on", None)
        if went_on is None or went_on[0] != epoch:
            return order(self, epoch, fix_batches_to_gpus, shuffle)
        _, used, start = went_on
        workers, self.num_shards, own, self.shard_id = self.num_shards, 1, self.shard_id, 0
        try:
            batches = order(self, epoch, fix_batches_to_gpus, shuffle)
        finally:
            self.num_shards, self.shard_id = workers, own
        rest = ShardedIterator(batches[used:], workers, own, fill_value=[])
        return [*([[]] * start), *rest]  # fairseq drops the first ones, which are counted as used

    EpochBatchIterator.state_dict = state_dict
    EpochBatchIterator.load_state_dict = load_state_dict
    EpochBatchIterator.ordered_batches = ordered_batches
    _count_remaining_groups()


def _count_remaining_groups() -> None:
    """Let an epoch that goes on have as many updates as its remaining batches make.

    fairseq subtracts rounded numbers, and loses the last update if the number of used batches is no
    multiple of ``--update-freq``, which was then another one before.
    """
    original = GroupedIterator.__init__

    @functools.wraps(original)
    def __init__(
        self: Any, iterable: Any, chunk_size: int, skip_remainder_batch: bool = False
    ) -> None:
        original(self, iterable, chunk_size, skip_remainder_batch)
        if not skip_remainder_batch:
            rest = len(iterable) - getattr(iterable, "n", 0)
            self.total = self.n + math.ceil(rest / chunk_size)

    GroupedIterator.__init__ = __init__


def _used(iterator: Any) -> int:
    """Return how many batches of the epoch all workers have used."""
    went_on = getattr(iterator, "_went_on", None)
    base, start = went_on[1:] if went_on and went_on[0] == iterator.epoch else (0, 0)
    used: int = base + (iterator.iterations_in_epoch - start) * iterator.num_shards
    return min(used, len(iterator.frozen_batches))


def _fingerprint(iterator: Any) -> str:
    """Return a digest of the sizes and the samples of an iterator's batches."""
    batches = iterator.frozen_batches
    known = getattr(iterator, "_fingerprint", None)
    if known is None or known[0] is not batches:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(np.fromiter(map(len, batches), np.int64, len(batches)).tobytes())
        for batch in batches:
            digest.update(np.asarray(batch, np.int64).tobytes())
        known = iterator._fingerprint = (batches, digest.hexdigest())
    found: str = known[1]
    return found


def _check(iterator: Any, state: dict[str, Any]) -> None:
    """Refuse to go on in an epoch of other batches, or of batches in another order.

    Raises:
        UserError: the data, or an option that makes batches, has changed.
    """
    where = (
        f"the checkpoint stopped in epoch {state['epoch']} after {state[BATCHES]} of {state[ALL]} "
        "batches"
    )
    remedy = "or begin the epoch anew with --reset-dataloader"
    if _fingerprint(iterator) != state[FINGERPRINT]:
        raise UserError(
            f"{where}, but the data or the options that make batches (--max-tokens, --batch-size, "
            "--required-batch-size-multiple, --seed, lengths) have changed, so that samples would "
            f"be lost or repeated: go on with those of the checkpoint, {remedy}"
        )
    if iterator.grouped_shuffling and state[WORKERS] != iterator.num_shards:
        raise UserError(
            f"{where} and --grouped-shuffling, whose order depends on the number of workers: go on "
            f"with the same number, {remedy}"
        )

"""Go on in the middle of an epoch with other workers, ``--update-freq`` or ``--max-tokens``."""

import base64
import functools
import hashlib
import logging
import math
import zlib
from typing import Any

import numpy as np
from fairseq.data.iterators import EpochBatchIterator, GroupedIterator, ShardedIterator

from ..errors import UserError

logger = logging.getLogger(__name__)

BATCHES = "batches"  # in a checkpoint: number of batches that all workers have used in the epoch
ALL = "batches_in_epoch"  # their number in the epoch
WORKERS = "workers"  # their number
FINGERPRINT = "batches_fingerprint"  # of all batches, in the order before shuffling
SEED = "seed"  # which orders the batches
DATA = "data_fingerprint"  # of the lengths of all samples; None if the data set does not tell them
SAMPLES = "samples"  # the samples that all workers have used in the epoch, one bit each, as text


_order: Any = EpochBatchIterator.ordered_batches  # fairseq's own


def cure_lost_progress() -> None:
    """Count the progress in an epoch in batches of all workers.

    fairseq counts the batches that each worker has used. With fewer workers than before, the
    resumed training uses some samples again without a warning; with more, it fails with "dataloader
    mismatch", or leaves samples out. The division of an epoch's batches among workers does not
    change the batches nor their order, so that the number of batches that all workers have used
    tells where to go on. Options such as ``--max-tokens`` make other batches of the same samples;
    then the samples that were used are left out of the rest of the epoch. Checkpoints without this
    state are read as before. Remove this work-around once fairseq's iterators count so.
    """
    save, load = EpochBatchIterator.state_dict, EpochBatchIterator.load_state_dict
    order = _order

    @functools.wraps(save)
    def state_dict(self: Any) -> dict[str, Any]:
        used = 0 if self.end_of_epoch() else _used(self)
        data = _data_fingerprint(self.dataset) if used else None
        return {
            **save(self),
            BATCHES: used,
            ALL: len(self.frozen_batches),
            WORKERS: self.num_shards,
            # after a change within the epoch, batches say nothing
            FINGERPRINT: "" if _begun(self) is not None else _fingerprint(self),
            SEED: self.seed,
            DATA: data,
            SAMPLES: None if data is None else _text_of(_used_samples(self, used)),
        }

    @functools.wraps(load)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        used = state_dict.get(BATCHES)
        self._went_on = self._begun = None
        if not used:
            load(self, state_dict)
            return
        self.epoch = state_dict["epoch"]
        self._begun = _check(self, state_dict)
        shuffle, left = state_dict.get("shuffle", True), state_dict[ALL] - used
        if self._begun is not None:
            used, left = 0, _num_left(self.frozen_batches, self._begun)
        start = len(self) - math.ceil(left / self.num_shards)
        self._went_on = (self.epoch, used, start)
        self._next_epoch_itr = self._get_iterator_for_epoch(
            self.epoch, shuffle=shuffle, offset=start
        )

    @functools.wraps(order)
    def ordered_batches(self: Any, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> Any:
        went_on = getattr(self, "_went_on", None)
        self._order = fix_batches_to_gpus, shuffle
        if went_on is None or went_on[0] != epoch:
            return order(self, epoch, fix_batches_to_gpus, shuffle)
        _, used, start = went_on
        batches = _in_order(self, epoch, fix_batches_to_gpus, shuffle)[used:]
        rest = ShardedIterator(batches, self.num_shards, self.shard_id, fill_value=[])
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


def _in_order(iterator: Any, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list[Any]:
    """Return the batches of all workers together, without samples that were used before."""
    workers, iterator.num_shards = iterator.num_shards, 1
    own, iterator.shard_id = iterator.shard_id, 0
    try:
        batches = _order(iterator, epoch, fix_batches_to_gpus, shuffle)
    finally:
        iterator.num_shards, iterator.shard_id = workers, own
    begun = _begun(iterator)
    if begun is None:
        return list(batches)
    left = ([i for i in batch if not begun[i]] for batch in batches)
    return [batch for batch in left if batch]


def _used_samples(iterator: Any, used: int) -> Any:
    """Return which samples all workers have used in the epoch, bool [N]."""
    begun = _begun(iterator)
    samples = np.zeros(len(iterator.dataset), bool) if begun is None else begun.copy()
    for batch in _in_order(iterator, iterator.epoch, *iterator._order)[:used]:
        samples[np.asarray(batch, np.int64)] = True
    return samples


def _begun(iterator: Any) -> Any:
    """Return the samples of the epoch that were used in other batches, bool [N], or None."""
    went_on = getattr(iterator, "_went_on", None)
    return iterator._begun if went_on and went_on[0] == iterator.epoch else None


def _num_left(batches: Any, begun: Any) -> int:
    """Return how many of the batches have a sample that was not used before."""
    return sum(not begun[np.asarray(batch, np.int64)].all() for batch in batches)


def _data_fingerprint(dataset: Any) -> str | None:
    sizes = getattr(dataset, "sizes", None)
    if sizes is None or len(sizes) != len(dataset):
        return None
    return hashlib.blake2b(np.asarray(sizes, np.int64).tobytes(), digest_size=16).hexdigest()


def _text_of(samples: Any) -> str:
    return base64.b64encode(zlib.compress(np.packbits(samples).tobytes())).decode()


def _samples_of(text: str, count: int) -> Any:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def _check(iterator: Any, state: dict[str, Any]) -> Any:
    """Return the samples that were used in other batches, bool [N]; None for the same batches.

    Raises:
        UserError: the data have changed, or the order of batches that is not known.
    """
    where = (
        f"the checkpoint stopped in epoch {state['epoch']} after {state[BATCHES]} of {state[ALL]} "
        "batches"
    )
    remedy = "or begin the epoch anew with --reset-dataloader"
    if iterator.grouped_shuffling and state[WORKERS] != iterator.num_shards:
        raise UserError(
            f"{where} and --grouped-shuffling, whose order depends on the number of workers: go on "
            f"with the same number, {remedy}"
        )
    same_order = state.get(SEED, iterator.seed) == iterator.seed
    if _fingerprint(iterator) == state[FINGERPRINT] and same_order:
        return None
    data = state.get(DATA)
    if data is None or data != _data_fingerprint(iterator.dataset) or iterator.grouped_shuffling:
        raise UserError(
            f"{where}, but the data or the options that make samples (--tokens-per-sample, --pack, "
            "lengths) have changed, so that samples would be lost or repeated: go on with "
            f"those of the checkpoint, {remedy}"
        )
    logger.info(f"{where}; the batches are others now, of the samples that are left")
    return _samples_of(state[SAMPLES], len(iterator.dataset))

"""Let ``fairseq-generate --num-shards`` divide a split."""

import functools
from argparse import Namespace
from typing import Any

from ..errors import UserError
from .evaluation import EMPTY_SHARD

_shard: tuple[int, int] | None = None  # number of shards and own one of this process's command


def divide_generation(args: Namespace, words: list[str]) -> None:
    """Note the shard that ``fairseq-generate`` is to generate.

    fairseq divides a split among GPUs, and ignores ``--num-shards`` and ``--shard-id`` in all
    commands but ``fairseq-eval-lm``, so that each shard of ``fairseq-generate`` writes everything.
    :func:`cure_undivided_generation` reads what is noted here. Remove both once
    ``fairseq-generate`` passes the options on.

    Args:
        args: parsed options of a fairseq command.
        words: words of the command line.

    Raises:
        UserError: the command cannot divide its data, or there is no such shard.
    """
    global _shard
    _shard = None
    count, own = getattr(args, "num_shards", 1), getattr(args, "shard_id", 0)
    if (count, own) == (1, 0):
        return
    if not 0 <= own < count:
        raise UserError(
            f"--shard-id {own}: must be at least 0 and below the number of shards, "
            f"--num-shards {count}"
        )
    if hasattr(args, "output_word_probs"):
        return  # fairseq-eval-lm, which divides its data itself
    generates = hasattr(args, "score_reference") and not hasattr(args, "input")
    if not generates:
        raise UserError(
            f"--num-shards {count}: only fairseq-generate and fairseq-eval-lm can divide their "
            "data so; leave it out"
        )
    if getattr(args, "distributed_world_size", 1) > 1:
        raise UserError(
            f"--num-shards {count}: the command divides its data among "
            f"{args.distributed_world_size} GPUs; give each shard one GPU, with "
            "--distributed-world-size 1"
        )
    _shard = count, own


def cure_undivided_generation() -> None:
    """Let ``fairseq-generate`` read the batches of its own shard; see :func:`divide_generation`."""
    from fairseq.tasks import FairseqTask

    original = FairseqTask.get_batch_iterator

    @functools.wraps(original)
    def get_batch_iterator(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _shard is None:
            return original(self, *args, **kwargs)
        count, own = _shard
        batches = original(self, *args, **{**kwargs, "num_shards": count, "shard_id": own})
        if own >= len(batches.frozen_batches):
            raise UserError(EMPTY_SHARD)
        return batches

    FairseqTask.get_batch_iterator = get_batch_iterator

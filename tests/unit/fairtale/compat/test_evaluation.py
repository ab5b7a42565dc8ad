"""Evaluations that score no sample."""

import pytest
import torch

from fairtale.compat.evaluation import refuse_empty_evaluation
from fairtale.errors import UserError
from tests.helpers import tiny_task, write_split


def test_evaluation_of_nothing_is_refused():
    with pytest.raises(UserError, match="0 of 3 samples .* --tokens-per-sample"):
        refuse_empty_evaluation([], 3)
    batches = refuse_empty_evaluation([{"id": 1}, {}], 3)
    assert len(batches) == 2 and list(batches) == [{"id": 1}, {}]
    with pytest.raises(UserError, match="--shard-id: .* fewer batches than --num-shards"):
        list(refuse_empty_evaluation([{}, {}], 3))


@pytest.mark.parametrize("own", [0, 1, 2])
def test_a_shard_without_batches(own, tmp_path):
    """Of fairseq's own and of our tasks; fairseq prints "Perplexity: 1.00"."""
    write_split(tmp_path, "test", [[5, 6], [7, 8, 9]], 24)
    task = tiny_task()
    task.cfg.data = str(tmp_path)
    task.load_dataset("test")
    words = {"batch_size": 1, "num_shards": 3, "shard_id": own, "num_workers": 0}
    batches = task.eval_lm_dataloader(task.dataset("test"), **words)
    assert len(batches) == 1  # also of the empty shard
    if own < 2:
        assert [torch.numel(batch["id"]) for batch in batches] == [1]
    else:
        with pytest.raises(UserError, match="--shard-id"):
            list(batches)

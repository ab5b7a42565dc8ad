"""A worker that has a batch fewer than others changes nothing."""

import logging

import pytest

from tests.finetuning_helpers import write_data
from tests.sharding_helpers import build, together, trained


@pytest.mark.parametrize("backend", ["legacy_ddp", "fsdp2"])
def test_three_batches_in_two_workers(backend, tmp_path):
    """One worker has two batches in the update, and the other one has one and a filler."""
    (tmp_path / "data").mkdir()
    data = write_data(tmp_path / "data")

    def work(rank):
        logging.disable(logging.INFO)
        words = ["--batch-size", 6, "--ddp-backend", backend]
        count = 2 if whole is None else 1
        trainer, updates = build(data, rank, count, *words, update_freq=4 // count)
        assert len(updates) == 1
        return trained(trainer, updates * 2)

    whole = True
    (expected,) = together(1, tmp_path / "one", work)
    whole = None
    for seen in together(2, tmp_path / "two", work):
        assert seen == [pytest.approx(values, abs=1e-5) for values in expected]

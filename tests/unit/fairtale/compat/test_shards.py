"""``--num-shards`` of fairseq-generate."""

import pytest
from fairseq import options

from fairtale.compat import shards
from fairtale.errors import UserError
from tests.compat_helpers import parse
from tests.helpers import tiny_task, write_split


def parse_generate(*words, interactive=False):
    parser = options.get_generation_parser(interactive=interactive)
    needed = ["data", "--task", "language_modeling", "--path", "model.pt"]
    words = [*needed, "--distributed-world-size", 1, *words]
    return options.parse_args_and_arch(parser, [str(word) for word in words])


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_shard", None)
    monkeypatch.setattr("fairtale.options.words_of_checkpoint", lambda words: [])
    monkeypatch.setattr("fairtale.options.check_words", lambda parser, words: None)
    write_split(tmp_path, "test", [[5, 6]] * 7, 24)
    task = tiny_task()
    task.cfg.data = str(tmp_path)
    task.load_dataset("test")
    return task


def generated(task, *words):
    """Return the numbers of the sentences that fairseq-generate would read, in order."""
    parse_generate(*words)
    batches = task.get_batch_iterator(
        dataset=task.dataset("test"), max_sentences=2, num_shards=1, shard_id=0
    ).next_epoch_itr(shuffle=False)
    return [int(number) for batch in batches if batch for number in batch["id"]]


def test_shards_are_the_whole(task):
    whole = generated(task)
    parts = [generated(task, "--num-shards", 3, "--shard-id", own) for own in range(3)]
    assert sorted(sum(parts, [])) == sorted(whole) == list(range(7))
    assert max(map(len, parts)) < 7
    assert generated(task) == whole


def test_a_shard_without_batches(task):
    with pytest.raises(UserError, match="--shard-id: this shard has no sample"):
        generated(task, "--num-shards", 5, "--shard-id", 4)


def test_what_is_refused(task):
    with pytest.raises(UserError, match="--shard-id 3: .* --num-shards 3"):
        parse_generate("--num-shards", 3, "--shard-id", 3)
    with pytest.raises(UserError, match="--num-shards 2: .* 4 GPUs"):
        parse_generate("--num-shards", 2, "--distributed-world-size", 4)
    with pytest.raises(UserError, match="--num-shards 2: only fairseq-generate"):
        parse_generate("--num-shards", 2, interactive=True)
    with pytest.raises(UserError, match="--num-shards 2: only fairseq-generate"):
        parse("--num-shards", "2")

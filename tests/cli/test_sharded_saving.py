"""``fairseq-train --save-sharded`` in several processes, killed while it saves, and its verb."""

import pytest
import torch

from tests.checkpoint_helpers import assert_same
from tests.cli.fairtale_command import assert_user_error, fairtale
from tests.cli.test_sharded_training import (
    FSDP,
    OPTIONS,
    assert_near,
    free_port,
    launched,
    state,
    train,
    updates,
)

SAVING = [*FSDP, "--save-sharded", "--save-interval-updates", 2]

# the second process kills itself in the background, in the middle of writing its second save
DIE_WRITING = """
import os, signal
from torch.distributed.checkpoint.filesystem import FileSystemWriter

write, writes = FileSystemWriter.write_data, []

def write_data(self, plan, planner):
    written = write(self, plan, planner)
    writes.append(self.path)
    if len(writes) == 2 and os.environ["RANK"] == "1":
        path = self.path / "__1_0.distcp"
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    return written

FileSystemWriter.write_data = write_data
"""


def folders(path):
    return sorted(p.name for p in path.iterdir() if p.is_dir())


@pytest.mark.slow
def test_two_go_on_as_one_and_back(fairseq, stories, tmp_path):
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    train(fairseq, stories.bin, straight, 2, "--max-update", 6, *FSDP)
    expected, seen = updates(straight, 2), []
    kept = ["--keep-interval-updates", 1]
    for count, last, found in ((2, 3, [2, 3]), (1, 5, [2, 5]), (2, 6, [6])):
        train(fairseq, stories.bin, moved, count, "--max-update", last, *SAVING, *kept)
        seen += updates(moved, count)
        numbers = [int(name.split("_")[2].split(".")[0]) for name in folders(moved)]
        assert numbers == found
        assert not list(moved.glob("*.pt"))
    assert [samples for _, samples in seen] == [samples for _, samples in expected]
    assert [loss for loss, _ in seen] == pytest.approx([loss for loss, _ in expected], abs=1e-5)
    # another backend does not take an older state instead
    other = fairseq.train(stories.bin, moved, *OPTIONS, "--max-update", 7, check=False)
    assert other.status == 1 and "fairtale consolidate" in other.error
    done = fairtale("consolidate", moved, "--output", moved / "checkpoint_last.pt")
    assert done.returncode == 0, done.stderr
    assert "(6 updates)" in done.stdout
    one, many = state(straight), state(moved)
    for part in ("model", "last_optimizer_state", "task_state"):
        assert_near(one[part], many[part], part)
    assert list(one) == list(many)
    fairseq.run(
        *("generate", stories.bin, "--path", moved / "checkpoint_last.pt", "--gen-subset", "test"),
        *("--batch-size", 16, "--cpu", "--max-len-b", 5, "--prefix-size", 3),
    )
    folder = moved / folders(moved)[-1]
    named = fairseq.run("generate", stories.bin, "--path", folder, "--cpu", check=False)
    assert named.status == 1 and "fairtale consolidate" in named.error


@pytest.mark.slow
def test_killed_while_saving_in_the_background(fairseq, stories, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    words = ["--max-update", 6, *SAVING]
    train(fairseq, stories.bin, straight, 2, *words)
    expected = updates(straight, 2)
    command = fairseq.tiny(stories.bin, killed, *OPTIONS, "--update-freq", 2, *words)
    port = free_port()
    first, second = fairseq.together(
        *(
            fairseq.prepare("train", *command, env=launched(r, 2, port), before=DIE_WRITING)
            for r in range(2)
        )
    )
    assert first.status == 1 and second.status == -9
    assert "worker 1" in first.error and "has died" in first.error, first.err[-3000:]
    assert folders(killed) == ["checkpoint_1_2.shards", "checkpoint_1_4.shards.tmp"]
    resumed = train(fairseq, stories.bin, killed, 2, *words)
    assert "checkpoint_1_4.shards.tmp, which a killed training has left" in resumed[0].out
    assert updates(killed, 2) == expected[2:]
    files = []
    for folder in (straight, killed):
        done = fairtale("consolidate", folder, "--output", folder / "one.pt")
        assert done.returncode == 0, done.stderr
        files.append(torch.load(folder / "one.pt", weights_only=False))
    for part in ("model", "last_optimizer_state"):
        assert_same(files[0][part], files[1][part])


def test_what_is_refused(fairseq, stories, tmp_path):
    for words, message in (
        (["--save-sharded"], "--save-sharded needs --ddp-backend fsdp2"),
        ([*SAVING, "--no-last-checkpoints"], "not supported: --no-last-checkpoints"),
        ([*SAVING, "--restore-file", tmp_path], "not a whole checkpoint of --save-sharded"),
    ):
        result = fairseq.train(stories.bin, tmp_path / "a", *OPTIONS, *words, check=False)
        assert result.status == 1 and message in result.error, result.err[-2000:]
    refused = fairtale("consolidate", tmp_path, "--output", tmp_path / "x.pt")
    assert_user_error(refused, "neither a whole checkpoint of --save-sharded")
    assert not (tmp_path / "x.pt").exists()

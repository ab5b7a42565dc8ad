"""Which checkpoints are written, and when."""

from types import SimpleNamespace

import pytest
from fairseq import checkpoint_utils
from fairseq_cli import train

from fairtale.compat import checkpoint_files
from tests.compat_helpers import pristine


class Trainer:
    """Write files that hold the number of updates."""

    data_parallel_rank, checkpoint_suffix = 0, ""
    should_save_checkpoint_on_current_rank = True
    always_call_state_dict_during_save_checkpoint = False
    task = None
    cfg = SimpleNamespace(distributed_training=SimpleNamespace(ddp_backend="pytorch_ddp"))

    def __init__(self, num_updates):
        self.num_updates = num_updates

    def get_num_updates(self):
        return self.num_updates

    def cumulative_training_time(self):
        return 0

    def consolidate_optimizer(self):
        pass

    def save_checkpoint(self, filename, extra_state):
        with open(filename, "w") as stream:
            stream.write(f"{self.num_updates} {extra_state['val_loss']}")
        return filename


class EpochIterator:
    def __init__(self, epoch, ends):
        self.epoch, self.ends = epoch, ends

    def end_of_epoch(self):
        return self.ends

    def state_dict(self):
        return {}


def settings(folder, **options):
    values = {
        "save_dir": str(folder),
        "no_save": False,
        "maximize_best_checkpoint_metric": False,
        "best_checkpoint_metric": "loss",
        "no_epoch_checkpoints": True,
        "save_interval": 1,
        "save_interval_updates": 2,
        "keep_interval_updates": 2,
        "keep_interval_updates_pattern": -1,
        "keep_best_checkpoints": -1,
        "keep_last_epochs": -1,
        "no_last_checkpoints": False,
        "write_checkpoints_asynchronously": False,
    }
    return SimpleNamespace(**{**values, **options})


def save(module, folder, updates, ends=False, loss=1.0, **options):
    """Save as after so many updates; return the names of all files."""
    cfg = settings(folder, **options)
    module.save_checkpoint(cfg, Trainer(updates), EpochIterator(1, ends), loss)
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def forget():
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    yield
    vars(checkpoint_utils.save_checkpoint).pop("best", None)


def test_the_best_is_that_of_the_folder(tmp_path):
    """fairseq writes no best one for a training whose results stay worse than its beginning."""
    stock = pristine("fairseq.checkpoint_utils")
    for module, found in ((stock, False), (checkpoint_utils, True)):
        module.save_checkpoint.best = 0.5  # of the training that --restore-file belongs to
        folder = tmp_path / str(found)
        folder.mkdir()
        assert ("checkpoint_best.pt" in save(module, folder, 1)) == found
    save(checkpoint_utils, folder, 3, loss=2.0)
    assert (folder / "checkpoint_best.pt").read_text() == "1 1.0"
    save(checkpoint_utils, folder, 4, loss=0.75)
    assert (folder / "checkpoint_best.pt").read_text() == "4 0.75"
    assert checkpoint_utils.save_checkpoint.best == 0.75


def test_an_interval_may_end_with_an_epoch(tmp_path):
    common = ["checkpoint_best.pt", "checkpoint_last.pt"]
    assert save(pristine("fairseq.checkpoint_utils"), tmp_path, 2, ends=True) == common
    assert save(checkpoint_utils, tmp_path, 2, ends=True) == ["checkpoint_1_2.pt", *common]
    assert save(checkpoint_utils, tmp_path, 3, ends=True) == ["checkpoint_1_2.pt", *common]
    for updates in (4, 6):
        found = save(checkpoint_utils, tmp_path, updates, ends=True)
    assert found == ["checkpoint_1_4.pt", "checkpoint_1_6.pt", *common]  # two are kept
    # a checkpoint of the epoch is the same one
    found = save(checkpoint_utils, tmp_path, 8, ends=True, no_epoch_checkpoints=False)
    assert found == ["checkpoint1.pt", "checkpoint_1_4.pt", "checkpoint_1_6.pt", *common]


def test_an_interval_that_ends_with_an_epoch_is_validated(tmp_path, monkeypatch):
    cfg = SimpleNamespace(
        checkpoint=settings(tmp_path),
        optimization=SimpleNamespace(max_update=99, stop_time_hours=0),
        dataset=SimpleNamespace(
            validate_after_updates=0,
            validate_interval=1000,
            validate_interval_updates=0,
            disable_validation=False,
        ),
    )
    stock = pristine("fairseq_cli.train")
    cured = pristine("fairseq_cli.train")
    checkpoint_files._validate_intervals(cured)
    for module, expected in ((stock, [None]), (cured, [1.5])):
        monkeypatch.setattr(module, "validate", lambda *args: [1.5])
        monkeypatch.setattr(module, "should_stop_early", lambda *args: False)
        for updates, end in ((2, False), (2, True), (3, True)):
            losses, _ = module.validate_and_save(
                cfg, Trainer(updates), None, EpochIterator(1, end), ["valid"], end
            )
            due = updates == 2
            assert losses == ([1.5] if due and not end else expected if due else [None])
    assert train

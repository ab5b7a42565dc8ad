"""Let ``fairseq-train --save-sharded`` write checkpoints of shards, and any training find them."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer

from ..compat import read_checkpoint
from ..compat.early_stopping import saved_patience
from ..errors import UserError
from . import shard_folders
from .shard_folders import STATE_FILE, Kept, Save
from .sharding_config import is_sharded, saves_shards

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
DEFAULT_RESTORE = "checkpoint_last.pt"  # of fairseq's --restore-file
_trainers: list[Any] = []  # those that save shards


def install() -> None:
    """Add saving and loading of shards to ``fairseq-train``."""
    Trainer.load_checkpoint = _reading_shards(Trainer.load_checkpoint)
    checkpoint_utils.save_checkpoint = _saving_shards(checkpoint_utils.save_checkpoint)
    checkpoint_utils.load_checkpoint = _finding_shards(checkpoint_utils.load_checkpoint)
    checkpoint_utils.verify_checkpoint_directory = _removing_unfinished(
        checkpoint_utils.verify_checkpoint_directory
    )
    distributed_utils.call_main = _finishing(distributed_utils.call_main)


# --------------------------------------------------------------------------------- saving


def _saving_shards(original: Function) -> Function:
    @functools.wraps(original)
    def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        if not saves_shards(trainer.cfg):
            return original(cfg, trainer, epoch_itr, val_loss)
        best = _note_best(cfg, val_loss)
        if cfg.no_save:
            return None
        ends, updates = epoch_itr.end_of_epoch(), trainer.get_num_updates()
        save = Save(
            epoch=epoch_itr.epoch,
            num_updates=updates,
            at_end_of_epoch=ends
            and not cfg.no_epoch_checkpoints
            and epoch_itr.epoch % cfg.save_interval == 0,
            at_interval=not ends
            and cfg.save_interval_updates > 0
            and updates % cfg.save_interval_updates == 0,
            is_best=val_loss is not None and val_loss == best,
        )
        extra_state = {
            "train_iterator": epoch_itr.state_dict(),
            "val_loss": val_loss,
            **saved_patience(),
        }
        if hasattr(trainer.task, "get_checkpoint_dict"):
            extra_state |= trainer.task.get_checkpoint_dict()
        if best is not None:
            extra_state["best"] = best
        begin_saving(trainer, save, extra_state)
        return None  # there is no file yet for a task's post_save

    return save_checkpoint


def _note_best(cfg: Any, val_loss: Any) -> Any:
    """Return the best result of all validations, which fairseq keeps at its function."""
    noted = vars(checkpoint_utils.save_checkpoint)
    if val_loss is not None:
        better = max if cfg.maximize_best_checkpoint_metric else min
        noted["best"] = better(val_loss, noted.get("best", val_loss))
    return noted.get("best")


def begin_saving(trainer: Any, save: Save, extra_state: dict[str, Any]) -> None:
    """Copy the state of a training, and begin to write it; all processes call this together.

    Args:
        trainer: fairseq's trainer of a sharded training.
        save: the moment.
        extra_state: what fairseq saves besides the trainer's state.

    Raises:
        UserError: the checkpoint before could not be written.
    """
    from .shard_state import Saving

    start, sharding, cfg = time.monotonic(), trainer._sharding, trainer.cfg.checkpoint
    writer = writer_of(trainer)
    writer.finish()
    sharding.saving = saving = Saving(writer.new_shards())
    try:
        trainer.consolidate_optimizer()
        state = saving.finish(utils.move_to_cpu(trainer.state_dict()))
    finally:
        sharding.saving = None
    state["extra_state"].update(extra_state)
    save_dir = Path(cfg.save_dir)
    folder = (save_dir / save.name).with_suffix(shard_folders.UNFINISHED)
    if sharding.keeps_state:
        shard_folders.begin(save_dir, save)
        with (folder / STATE_FILE).open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
    kept = Kept(cfg.keep_interval_updates, cfg.keep_last_epochs)

    def complete() -> None:
        whole = shard_folders.complete(folder, save)
        logger.info(f"saved {whole} ({time.monotonic() - start:.1f} seconds, in the background)")
        shard_folders.remove_old(save_dir, kept)

    writer.write(folder, saving.shards, complete)
    logger.info(
        f"saving {save_dir / save.name} (epoch {save.epoch} @ {save.num_updates} updates, copying "
        f"took {time.monotonic() - start:.1f} seconds)"
    )


def writer_of(trainer: Any) -> Any:
    """Return the writer of a training, which is made by the first call of all processes."""
    if getattr(trainer, "_shard_writer", None) is None:
        from .shard_files import ShardWriter

        trainer._shard_writer = ShardWriter(dist.new_group(backend="gloo"))
        _trainers.append(trainer)
    return trainer._shard_writer


def finish_saving() -> None:
    """Wait until all checkpoints are written.

    Raises:
        UserError: the last one could not be written.
    """
    for trainer in _trainers:
        trainer._shard_writer.finish()


def _finishing(original: Function) -> Function:
    @functools.wraps(original)
    def call_main(cfg: Any, main: Function, **kwargs: Any) -> Any:
        if saves_shards(cfg):
            main = functools.partial(_run_and_finish, main)
        return original(cfg, main, **kwargs)

    return call_main


def _run_and_finish(main: Function, cfg: Any, **kwargs: Any) -> None:
    main(cfg, **kwargs)
    finish_saving()


def _removing_unfinished(original: Function) -> Function:
    @functools.wraps(original)
    def verify_checkpoint_directory(save_dir: str) -> None:
        original(save_dir)
        shard_folders.remove_unfinished(Path(save_dir))

    return verify_checkpoint_directory


# -------------------------------------------------------------------------------- loading


def _finding_shards(original: Function) -> Function:
    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        folder = _found_by_all(cfg, trainer.cfg)
        if folder is None:
            return original(cfg, trainer, **kwargs)
        given = cfg.restore_file, cfg.finetune_from_model
        # a base is not loaded again when its fine-tuning goes on
        cfg.restore_file, cfg.finetune_from_model = str(folder / STATE_FILE), None
        try:
            return original(cfg, trainer, **kwargs)
        finally:
            cfg.restore_file, cfg.finetune_from_model = given

    return load_checkpoint


def _found_by_all(cfg: Any, whole_cfg: Any) -> Path | None:
    """Return what :func:`find` finds, in all processes what the first one finds."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return find(cfg, is_sharded(whole_cfg))
    found = [find(cfg, is_sharded(whole_cfg)) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]


def find(cfg: Any, sharded: bool) -> Path | None:
    """Return the folder of shards that a training goes on from, if it is the newest state.

    Args:
        cfg: fairseq's config of checkpoints.
        sharded: whether the training is sharded, and so can read it.

    Raises:
        UserError: an option names another folder, or the training cannot read it.
    """
    base = cfg.finetune_from_model
    if base is not None and os.path.isdir(base):
        raise UserError(
            f"--finetune-from-model {base}: a folder; make a file of the shards of --save-sharded: "
            f"fairtale consolidate {base} --output FILE --no-optimizer-state"
        )
    if cfg.restore_file != DEFAULT_RESTORE:
        if not os.path.isdir(cfg.restore_file):
            return None
        folder = Path(cfg.restore_file)
        if not shard_folders.is_whole(folder):
            raise UserError(
                f"--restore-file {folder}: not a whole checkpoint of --save-sharded; name a file, "
                f"or a folder that ends with {shard_folders.ENDING}"
            )
    else:
        found = shard_folders.whole_folders(Path(cfg.save_dir))
        if not found:
            return None
        num_updates, folder = found[-1]
        last = os.path.join(cfg.save_dir, DEFAULT_RESTORE)
        if os.path.isfile(last) and _updates_of(last) >= num_updates:
            return None
    if not sharded:
        last = os.path.join(cfg.save_dir, DEFAULT_RESTORE)
        raise UserError(_needs_sharding(folder, last))
    return folder


def _needs_sharding(folder: Path, output: str) -> str:
    return (
        f"{folder} holds the shards of a training with --ddp-backend fsdp2: train with it, or make "
        f"a file of them: fairtale consolidate {folder} --output {output}"
    )


def _updates_of(path: str) -> int:
    history = read_checkpoint(path).get("optimizer_history") or [{}]
    return int(history[-1].get("num_updates", 0))


def _reading_shards(original: Function) -> Function:
    @functools.wraps(original)
    def load_checkpoint(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        path = Path(filename)
        if path.name != STATE_FILE or not shard_folders.is_whole(path.parent):
            return original(self, filename, *args, **kwargs)
        sharding = getattr(self, "_sharding", None)
        if sharding is None:
            raise UserError(_needs_sharding(path.parent, "FILE"))
        with _from_shards(sharding, path.parent):
            return original(self, filename, *args, **kwargs)

    return load_checkpoint


@contextmanager
def _from_shards(sharding: Any, folder: Path) -> Iterator[None]:
    """Let the model and the optimizer load the rows of this process from a folder."""
    from .shard_state import KEY, Loading

    listed = read_checkpoint(str(folder / STATE_FILE))[KEY]
    sharding.loading = loading = Loading(folder, listed)
    module = sharding.module

    def load_state_dict(state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        owners = dict(module.named_parameters(remove_duplicate=False))
        whole = loading.model_state(state, owners)
        return type(module).load_state_dict(module, whole, *args, **kwargs)

    vars(module)["load_state_dict"] = load_state_dict
    try:
        yield
    finally:
        del vars(module)["load_state_dict"]
        sharding.loading = None

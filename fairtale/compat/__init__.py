"""Work around faults of fairseq, NumPy and torch.

The docstring of each work-around (a function ``cure_...``) describes the fault and when the
work-around can be removed. Importing this package changes nothing; :func:`install` applies the
work-arounds, and ``user_dir`` calls it before it registers anything. With ``--user-dir`` this
happens before fairseq parses its options. The work-arounds for command lines change parsed
options, so :mod:`fairtale.options` applies them. Each work-around replaces one function in memory;
no installed file is changed. The faults are those of fairseq-fixed 0.12.3.1 (the last main branch
of fairseq).
"""

from ..errors import install_error_hook
from .checkpoint_loading import explained_checkpoint_errors, read_checkpoint

__all__ = ["explained_checkpoint_errors", "install", "read_checkpoint"]

_installed = False


def install() -> None:
    """Apply all work-arounds; a second call does nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    # these modules import fairseq, which takes seconds, so they are not imported with the package
    from . import (
        architectures,
        batches,
        beams,
        checkpoint_checks,
        checkpoint_files,
        checkpoint_loading,
        checkpoint_saving,
        data_workers,
        early_stopping,
        epoch_progress,
        evaluation,
        filler_batches,
        full_disks,
        log_output,
        ngram_blocking,
        numpy2,
        precision,
        process_groups,
        prompts,
        sampling,
        schedules,
        shards,
        training_checks,
        waiting_threads,
    )

    waiting_threads.let_waiting_threads_sleep()
    numpy2.cure_numpy_names()
    batches.cure_lost_batches()
    ngram_blocking.cure_ngram_blocking()
    evaluation.cure_empty_evaluation()
    checkpoint_loading.cure_checkpoint_loading()
    checkpoint_loading.cure_lost_overrides()
    checkpoint_loading.cure_checkpoint_broadcast()
    early_stopping.cure_forgotten_patience()
    checkpoint_files.cure_missing_checkpoints()
    checkpoint_saving.cure_checkpoint_copies()
    checkpoint_saving.cure_crash_files()
    full_disks.cure_failed_saves()
    training_checks.cure_shared_folders()
    training_checks.cure_trainings_without_updates()
    training_checks.cure_missing_metric()
    checkpoint_checks.cure_lost_gates()
    checkpoint_checks.cure_foreign_shapes()
    checkpoint_checks.cure_foreign_dictionaries()
    data_workers.cure_buffer_thread()
    data_workers.cure_data_workers()
    epoch_progress.cure_lost_progress()
    filler_batches.cure_filler_batches()
    precision.cure_lost_precision()
    process_groups.cure_open_process_groups()
    prompts.cure_prompt_encoding()
    sampling.cure_masked_mass()
    schedules.cure_foreign_schedules()
    beams.cure_ended_beams()
    architectures.cure_shapeless_architectures()
    shards.cure_undivided_generation()
    log_output.cure_import_logging()
    log_output.cure_known_warnings()
    install_error_hook()

"""The one place for work-arounds of fairseq, NumPy and torch.

Each cure says which fault it answers and what makes it needless. Importing this package changes
nothing; :func:`install` applies every cure, and ``user_dir`` calls it before it registers
anything. With ``--user-dir`` that is before fairseq parses its options. The cures of command
lines amend what the option parser has read, so :mod:`fairtale.options` applies those. Every cure
is a small override of one function; nothing on disk is changed. The faults are those of
fairseq-fixed 0.12.3.1 (upstream's last main branch).
"""

from ..errors import install_error_hook
from .checkpoint_loading import explained_checkpoint_errors, read_checkpoint

__all__ = ["explained_checkpoint_errors", "install", "read_checkpoint"]

_installed = False


def install() -> None:
    """Apply every cure, once per process."""
    global _installed
    if _installed:
        return
    _installed = True
    # fairseq takes seconds to import, so it is loaded here and not with this package
    from . import (
        batches,
        checkpoint_checks,
        checkpoint_loading,
        checkpoint_saving,
        data_workers,
        evaluation,
        log_output,
        ngram_blocking,
        numpy2,
        prompts,
    )

    numpy2.cure_numpy_names()
    batches.cure_lost_batches()
    ngram_blocking.cure_ngram_blocking()
    evaluation.cure_empty_evaluation()
    checkpoint_loading.cure_checkpoint_loading()
    checkpoint_loading.cure_checkpoint_broadcast()
    checkpoint_saving.cure_checkpoint_copies()
    checkpoint_saving.cure_crash_files()
    checkpoint_checks.cure_lost_gates()
    checkpoint_checks.cure_foreign_dictionaries()
    data_workers.cure_buffer_thread()
    data_workers.cure_data_workers()
    prompts.cure_prompt_encoding()
    log_output.cure_import_logging()
    log_output.cure_known_warnings()
    install_error_hook()

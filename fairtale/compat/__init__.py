"""The one place for work-arounds of fairseq, NumPy and torch.

Each cure says which fault it answers and which version makes it needless. ``install()``
runs once, when the package is imported; with ``--user-dir`` that is before fairseq
parses its options. Every cure is a small override of one function; nothing on disk is
changed. The faults are those of fairseq-fixed 0.12.3.1 (upstream's last main branch).
"""

from fairseq.tasks import FairseqTask

from ..errors import install_error_hook
from . import checkpoints, commands, loud, silent
from .checkpoints import explained_checkpoint_errors, read_checkpoint
from .commands import install_validation_hook
from .silent import refuse_empty_evaluation

__all__ = [
    "explained_checkpoint_errors",
    "install",
    "install_validation_hook",
    "read_checkpoint",
    "refuse_empty_evaluation",
]


def install():
    """Apply every cure, once."""
    if getattr(FairseqTask, "fairtale_cured", False):
        return
    FairseqTask.fairtale_cured = True
    loud.cure_numpy_names()
    silent.cure_lost_batches()
    silent.cure_ngram_blocking()
    silent.cure_empty_evaluation()
    commands.cure_bf16_option()
    commands.cure_torchrun()
    commands.cure_command_lines()
    checkpoints.cure_checkpoint_loading()
    checkpoints.cure_checkpoint_broadcast()
    checkpoints.cure_checkpoint_copies()
    checkpoints.cure_crash_files()
    checkpoints.cure_lost_gates()
    checkpoints.cure_foreign_dictionaries()
    loud.cure_buffer_thread()
    loud.cure_data_workers()
    commands.cure_prompt_encoding()
    loud.cure_import_logging()
    loud.cure_known_warnings()
    install_error_hook()


install()

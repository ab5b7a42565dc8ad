"""Cure of torchaudio, whose newest wheel does not load beside a CPU build of torch."""

import sys


def hide_torchaudio() -> None:
    """Let ``import torchaudio`` fail as if it were not installed, unless it is loaded already.

    fairseq-fixed requires torchaudio, and transformers imports it with every model if it is
    installed, also for models of text, which need none of it. Needless once transformers tolerates
    a torchaudio that does not load.
    """
    # None is how Python marks a module that is not to be found
    sys.modules.setdefault("torchaudio", None)  # type: ignore[arg-type]

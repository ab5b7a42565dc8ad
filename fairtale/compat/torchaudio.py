"""Work around torchaudio, whose newest wheel does not load with a CPU build of torch."""

import sys


def hide_torchaudio() -> None:
    """Let ``import torchaudio`` fail as if it were not installed, unless it is already loaded.

    fairseq-fixed requires torchaudio, and transformers imports an installed torchaudio with every
    model, even with text models, which do not need it. Remove this work-around once transformers
    tolerates a torchaudio that does not load.
    """
    # an import of a module whose entry is None raises ModuleNotFoundError
    sys.modules.setdefault("torchaudio", None)  # type: ignore[arg-type]

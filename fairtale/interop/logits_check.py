"""Compare the logits of a checkpoint with those of transformers for the same weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError

NUM_ROWS, LONGEST = 2, 24  # of the compared batch, in tokens
TOLERANCE = 1e-4  # of the largest logit; fp32 sums in another order differ by a hundredth of it


class LogitsCheck(NamedTuple):
    """Result of a comparison."""

    difference: float  # largest absolute difference
    largest: float  # largest absolute logit
    num_tokens: int

    def __str__(self) -> str:
        return (
            f"logits of {self.num_tokens} tokens differ from those of transformers by at most "
            f"{self.difference:.1e} (the largest is {self.largest:.3g})"
        )


NOT_CHECKED = (
    "logits were not compared, because transformers is not installed (pip install 'fairtale[hf]')"
)


def load_model(checkpoint: str, data: str) -> nn.Module:
    """Load the model of a checkpoint as fairseq's commands do, with all checks of names and sizes.

    Args:
        checkpoint: path of the checkpoint.
        data: folder with its dictionary.
    """
    from fairseq import checkpoint_utils

    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([checkpoint], {"data": data})
    model: nn.Module = models[0].eval().float()
    return model


def can_compare() -> bool:
    """Return whether transformers is installed."""
    return find_spec("transformers") is not None


@torch.no_grad()
def compare_logits(model: Any, folder: str, num_entries: int, exact: bool = True) -> LogitsCheck:
    """Compare the logits of our model and of transformers' for a folder, in fp32 on a CPU.

    Args:
        model: our model, in evaluation mode.
        folder: a Hugging Face folder.
        num_entries: V; entries behind are not compared.
        exact: whether the folder has the same weights; if False, they are rounded, and any
            difference is accepted.

    Raises:
        UserError: the logits differ by more than rounding.
    """
    from ..compat.torchaudio import hide_torchaudio

    hide_torchaudio()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    length = min(LONGEST, model.max_positions())
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(num_entries, (NUM_ROWS, length), generator=generator)
    ours: Tensor = model(tokens)[0][..., :num_entries]
    expected: Tensor = theirs(tokens).logits
    largest = float(expected.abs().max())
    result = LogitsCheck(float((ours - expected).abs().max()), largest, tokens.numel())
    if exact and not result.difference <= TOLERANCE * max(1.0, largest):
        raise UserError(f"{folder}: {result}: this is more than rounding; nothing was written")
    return result

"""Continuations written to the log while a model trains."""

import logging
from collections.abc import Sequence
from typing import Any

from .options import DecodingOptions
from .session import Continuations, Session

logger = logging.getLogger(__name__)


def sample_continuations(
    task: Any,
    model: Any,
    prompts: Sequence[str],
    max_len: int,
    topk: int = 10,
    temperature: float = 1.0,
    seed: int = 1,
) -> Continuations:
    """Continue ``prompts`` by top-k sampling, the same way at every validation.

    The random state and the model's mode are put back afterwards, so training goes on as if
    nothing had been sampled.

    Args:
        task: of a prefix language model.
        model: of the task, in any mode.
        prompts: texts.
        max_len: most tokens of a continuation.
        topk: choose from this many of the likeliest tokens.
        temperature: divides the logits, above 0.
        seed: random seed for the choice.

    Returns:
        The continuations as text, and the speed in generated tokens/s.

    Raises:
        UserError: an option is out of its range.
    """
    options = DecodingOptions(
        max_len_b=max_len, sampling_topk=topk, temperature=temperature, seed=seed
    )
    return Session(task, model).continue_batch(prompts, options)


class SampleWriter:
    """Write continuations to the log and, with a folder, to TensorBoard as text.

    Args:
        tensorboard_logdir: folder of TensorBoard's files; None for none.
    """

    def __init__(self, tensorboard_logdir: str | None = None) -> None:
        self.writer: Any = None
        # a config that no command has composed still holds the reference to the option
        if tensorboard_logdir and not tensorboard_logdir.startswith("${"):
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(f"{tensorboard_logdir}/samples")

    def write(
        self, prompts: Sequence[str], continuations: Sequence[str], step: int, speed: float
    ) -> None:
        """Write the continuations of one validation.

        Args:
            prompts: texts.
            continuations: one of each.
            step: updates done.
            speed: in generated tokens/s.
        """
        for i, (prompt, text) in enumerate(zip(prompts, continuations)):
            logger.info("sample %d @ %d updates: %s|%s", i, step, prompt, text)
            if self.writer is not None:
                self.writer.add_text(f"sample/{i}", f"**{prompt}**{text}", step)
        if self.writer is not None:
            self.writer.add_scalar("sample_tokens_per_s", speed, step)
            self.writer.flush()

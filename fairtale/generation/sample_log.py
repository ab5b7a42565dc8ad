"""Write sampled continuations to the log during training."""

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

    The random state and the mode of the model are restored afterwards, so that sampling does not
    affect training.

    Args:
        task: task of a prefix language model.
        model: model of the task, in training or evaluation mode.
        prompts: texts to continue.
        max_len: maximum number of tokens in a continuation.
        topk: number of the most probable tokens to choose from.
        temperature: divisor of the logits, above 0.
        seed: random seed for sampling.

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
        tensorboard_logdir: folder for the TensorBoard files; None to write no such files.
    """

    def __init__(self, tensorboard_logdir: str | None = None) -> None:
        self.writer: Any = None
        # a config that Hydra has not composed holds the unresolved reference "${...}"
        if tensorboard_logdir and not tensorboard_logdir.startswith("${"):
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(f"{tensorboard_logdir}/samples")

    def write(
        self, prompts: Sequence[str], continuations: Sequence[str], step: int, speed: float
    ) -> None:
        """Write the continuations of one validation.

        Args:
            prompts: texts that were continued.
            continuations: one continuation of each prompt.
            step: number of finished updates.
            speed: generation speed in tokens/s.
        """
        for i, (prompt, text) in enumerate(zip(prompts, continuations)):
            logger.info("sample %d @ %d updates: %s|%s", i, step, prompt, text)
            if self.writer is not None:
                self.writer.add_text(f"sample/{i}", f"**{prompt}**{text}", step)
        if self.writer is not None:
            self.writer.add_scalar("sample_tokens_per_s", speed, step)
            self.writer.flush()

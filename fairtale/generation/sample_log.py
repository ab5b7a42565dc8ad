"""Continuations written to the log while a model trains."""

import logging
import time
from argparse import Namespace

import torch
from fairseq import utils

logger = logging.getLogger(__name__)


def sample_continuations(task, model, prompts, max_len, topk=10, temperature=1.0, seed=1):
    """Continue ``prompts`` by top-k sampling, the same way at every validation.

    The random state is put back afterwards, so training goes on as if nothing had been
    sampled.

    Args:
        task: a task with ``encode_prompt``, ``decode_tokens``, ``build_generator`` and
            ``build_dataset_for_inference``.
        prompts: texts.
        max_len: most tokens of a continuation.

    Returns:
        the continuations as text, and the speed in generated tokens/s.
    """
    device = next(model.parameters()).device
    tokens = [task.encode_prompt(prompt) for prompt in prompts]
    dataset = task.build_dataset_for_inference(tokens, [len(t) for t in tokens])
    sample = dataset.collater([dataset[i] for i in range(len(dataset))])
    sample = utils.move_to_cuda(sample) if device.type == "cuda" else sample
    args = Namespace(
        beam=1,
        nbest=1,
        sampling=True,
        sampling_topk=topk,
        temperature=temperature,
        max_len_a=0,
        max_len_b=max_len,
    )
    training = model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        generator = task.build_generator([model], args)
        start = time.perf_counter()
        hypos = task.inference_step(generator, [model], sample)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    model.train(training)
    best = [h[0]["tokens"] for h in hypos]
    speed = sum(map(len, best)) / max(seconds, 1e-9)
    return [task.decode_tokens(t) for t in best], speed


class SampleWriter:
    """Writes continuations to the log and, with a folder, to TensorBoard as text."""

    def __init__(self, tensorboard_logdir=None):
        self.writer = None
        # a config that no command has composed still holds the reference to the option
        if tensorboard_logdir and not tensorboard_logdir.startswith("${"):
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(f"{tensorboard_logdir}/samples")

    def write(self, prompts, continuations, step, speed):
        for i, (prompt, text) in enumerate(zip(prompts, continuations)):
            logger.info("sample %d @ %d updates: %s|%s", i, step, prompt, text)
            if self.writer is not None:
                self.writer.add_text(f"sample/{i}", f"**{prompt}**{text}", step)
        if self.writer is not None:
            self.writer.add_scalar("sample_tokens_per_s", speed, step)
            self.writer.flush()

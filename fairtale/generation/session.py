"""Sessions: a loaded model that answers dialogs or continues stories, request after request.

``fairtale chat``, samples in validation and the service decode through a session, which knows
neither terminals nor HTTP. Importing this file does not import fairseq; loading a checkpoint does,
after :func:`fairtale.plugin.register` has cured it.

A session serves one thread at a time: hold a lock from the call of :meth:`Session.stream` until its
last part. Within a thread several streams may be open and advance in turns, since each has its own
cache and, with a seed or a generator given, its own random numbers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from ..errors import UserError
from ..plugin import register
from .options import DecodingOptions
from .processors import ContextNgramBlock, Processor
from .streaming import stream_tokens, text_as_it_grows
from .writers import Kind, Limits, batch_of, writer_of

# what a training was told of generation does not count in a session
_TASK_DEFAULTS: Mapping[str, Any] = {
    "block_context_ngram": 0,
    "steer_words": None,
    "steer_weight": None,
}


class Continuations(NamedTuple):
    """What :meth:`Session.continue_batch` has written."""

    texts: list[str]
    tokens_per_second: float  # end marks included, reading the prompts included


class Session:
    """A model and its task, ready to write.

    Args:
        task: ``dialog_lm``, ``story_lm`` or another task of prefix language models.
        model: its model; to :meth:`stream`, it must be in evaluation mode.
    """

    def __init__(self, task: Any, model: Any) -> None:
        self.task = task
        self.model = model
        self._writer = writer_of(task, model)

    @classmethod
    def load(
        cls,
        path: str,
        data: str | None = None,
        cpu: bool = False,
        overrides: Mapping[str, Any] | None = None,
        kinds: Collection[Kind] = tuple(Kind),
    ) -> Session:
        """Load a checkpoint, without running code that it may contain.

        Args:
            path: checkpoint of ``dialog_lm`` or ``story_lm``.
            data: folder with its ``dict.txt`` and tokenizer; None for where it was trained.
            cpu: use no GPU, even if there is one.
            overrides: options of the task that replace those of the training; with ``steer_words``
                and ``steer_weight`` every reply is steered.
            kinds: refuse a model that is of none of these.

        Raises:
            UserError: the checkpoint is of another task, damaged, or of another dictionary; or an
                override is out of its range.
            OSError: there is no such file.
        """
        register()
        from fairseq import checkpoint_utils

        from ..modules.prefix_encoder_decoder import PrefixEncoder

        changed = {**_TASK_DEFAULTS, **(overrides or {})}
        if data:
            changed["data"] = data
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([path], changed)
        model = models[0].eval()
        session = cls(task, model)
        continues_prefixes = isinstance(getattr(model, "encoder", None), PrefixEncoder)
        if not continues_prefixes or session.kind not in kinds:
            names = " or ".join(sorted(kinds))
            raise UserError(f"{path}: trained with {type(task).__name__}, not {names}")
        if torch.cuda.is_available() and not cpu:
            model.cuda()
        _ = session._processors  # reads their files now, so that a request cannot fail for them
        return session

    @property
    def kind(self) -> Kind:
        """Return what the model writes."""
        return self._writer.kind

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def limits(self) -> Limits:
        """Return how much the model can read and write."""
        return self._writer.limits

    @cached_property
    def _processors(self) -> list[Processor]:
        return self._writer.processors()

    def check(self, options: DecodingOptions) -> None:
        """Refuse options that the model cannot satisfy for any request.

        Raises:
            UserError: a reply is to be longer than those that were learned.
        """
        self._writer.check(options)

    def new_generator(self, seed: int | None = None) -> torch.Generator:
        """Return a source of random numbers on the model's device.

        Args:
            seed: None for other numbers each time.
        """
        generator = torch.Generator(self.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return generator

    def stream(
        self,
        request: str | Sequence[str],
        options: DecodingOptions,
        generator: torch.Generator | None = None,
    ) -> Iterator[str]:
        """Return the parts of a text, each as soon as it is written; joined they are the text.

        The request and its options are checked at once, not when the first part is asked for.

        Args:
            request: the turns of a dialog, the newest last, or the beginning of a story, which may
                be empty.
            options: of this request alone.
            generator: source of random numbers that several requests draw from in turn; None for
                one of its own, seeded by ``options.seed``.

        Raises:
            UserError: nothing can be written for this request, or not with these options.
        """
        self.check(options)
        prefix = self._writer.prefix(request, options, self.device)
        processors = list(self._processors)
        if options.block_context_ngram:
            processors.insert(0, ContextNgramBlock(options.block_context_ngram))
        if generator is None:
            generator = self.new_generator(options.seed)
        options = replace(options, max_len_b=min(options.max_len, self.limits.max_new_tokens))
        tokens = stream_tokens(self.model, prefix, options, processors, generator)
        return self._writer.trim(text_as_it_grows(tokens, self.task.decode_ids))

    def reply(
        self,
        turns: Sequence[str],
        options: DecodingOptions,
        generator: torch.Generator | None = None,
    ) -> str:
        """Return the reply to a dialog; see :meth:`stream`."""
        return "".join(self.stream(turns, options, generator)).strip()

    def continue_text(
        self, prompt: str, options: DecodingOptions, generator: torch.Generator | None = None
    ) -> str:
        """Return what follows the beginning of a story, with the space before its first word.

        See :meth:`stream`.
        """
        return "".join(self.stream(prompt, options, generator))

    def continue_batch(self, prompts: Sequence[str], options: DecodingOptions) -> Continuations:
        """Continue several prompts in one batch, with the generator of fairseq's commands.

        The model may be in training mode, and is so afterwards. Random numbers come from torch's
        global generator; with a seed, its state is put back afterwards. Contexts are blocked by the
        task's own option, not by ``options.block_context_ngram``.

        Args:
            prompts: texts, the turns of a dialog separated by tabs.
            options: of all prompts.

        Raises:
            UserError: a prompt leaves no room for what is asked for.
        """
        from fairseq import utils

        device, training = self.device, self.model.training
        on_gpu = device.type == "cuda"
        sample = batch_of(self.task, prompts)
        sample = utils.move_to_cuda(sample) if on_gpu else sample
        seeded = options.seed is not None
        with torch.random.fork_rng([device] if on_gpu else []) if seeded else nullcontext():
            if options.seed is not None:
                torch.manual_seed(options.seed)
            generator = self.task.build_generator([self.model], options.as_generation_args())
            start = time.perf_counter()
            hypotheses = self.task.inference_step(generator, [self.model], sample)
            if on_gpu:
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
        self.model.train(training)
        best = [group[0]["tokens"] for group in hypotheses]
        texts = [self.task.decode_tokens(tokens) for tokens in best]
        return Continuations(texts, sum(map(len, best)) / max(seconds, 1e-9))

"""Generate text with a loaded model: reply to dialogs, or continue stories.

``fairtale chat``, samples in validation and the HTTP service generate text through a
:class:`Session`, which is independent of terminals and HTTP. Importing this module does not import
fairseq. Loading a checkpoint does, after :func:`fairtale.plugin.register` has installed the
work-arounds.

Only one thread at a time may use a session: hold a lock from the call of :meth:`Session.stream`
until its last part. Within a thread, several streams may be open and advance alternately, because
each stream has its own cache and, if a seed or a generator is given, its own random numbers.
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
from .batch_sampling import (
    Sample,
    join_prefixes,
    plan_batches,
    sample_seeds,
    sample_tokens,
    uniform_draws,
)
from .growing_text import text_as_it_grows
from .options import DecodingOptions
from .processors import ContextNgramBlock, Processor
from .streaming import Prefix, stream_tokens
from .writers import Kind, Limits, batch_of, writer_of

# reset the generation options that the checkpoint contains from its training
_TASK_DEFAULTS: Mapping[str, Any] = {
    "block_context_ngram": 0,
    "steer_words": None,
    "steer_weight": None,
    "lora_adapter": None,
}


class Continuations(NamedTuple):
    """Result of :meth:`Session.continue_batch`."""

    texts: list[str]
    tokens_per_second: float  # counts EOS tokens; the time includes encoding the prompts


class Session:
    """A model and its task, ready to generate text.

    Args:
        task: ``dialog_lm``, ``story_lm`` or another task of prefix language models.
        model: model of the task; :meth:`stream` requires evaluation mode.
    """

    def __init__(self, task: Any, model: Any) -> None:
        self.task = task
        self.model = model
        self.writer = writer_of(task, model)

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
            data: folder with ``dict.txt`` and the tokenizer; None for the folder that the model was
                trained on.
            cpu: use no GPU, even if one is available.
            overrides: task options that replace those of the training; ``steer_words`` and
                ``steer_weight`` apply to every reply, and ``lora_adapter`` to the model.
            kinds: accepted kinds of models.

        Raises:
            UserError: the checkpoint is damaged, or belongs to another task or dictionary; or an
                override is out of range, or an adapter belongs to another model.
            OSError: the file does not exist.
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
        _ = session.processors  # read their files now, so that errors do not occur in a request
        return session

    @property
    def kind(self) -> Kind:
        """Return the kind of text that the model generates."""
        return self.writer.kind

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def limits(self) -> Limits:
        """Return the limits on prompts and generated texts."""
        return self.writer.limits

    @cached_property
    def processors(self) -> list[Processor]:
        """Return the processors that apply to every request."""
        return self.writer.processors()

    def _processors_for(self, options: DecodingOptions) -> list[Processor]:
        if not options.block_context_ngram:
            return self.processors
        return [ContextNgramBlock(options.block_context_ngram), *self.processors]

    def check(self, options: DecodingOptions) -> None:
        """Refuse options that the model cannot satisfy for any request.

        Raises:
            UserError: a length option exceeds the length of the replies in training.
        """
        self.writer.check(options)

    def new_generator(self, seed: int | None = None) -> torch.Generator:
        """Return a random number generator on the model's device.

        Args:
            seed: random seed; None for a different seed each time.
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
        """Return an iterator over the parts of a generated text, each as soon as it is available.

        The concatenation of the parts is the text. The request and its options are checked at once,
        not when the first part is requested.

        Args:
            request: the turns of a dialog, the newest last, or the beginning of a story, which may
                be empty.
            options: decoding options of this request.
            generator: random number generator, which several requests may share; None for a new
                one, seeded with ``options.seed``.

        Raises:
            UserError: the model cannot generate a text for this request with these options.
        """
        self.check(options)
        prefix = self.writer.prefix(request, options, self.device)
        processors = self._processors_for(options)
        if generator is None:
            generator = self.new_generator(options.seed)
        options = replace(options, max_len_b=min(options.max_len, self.limits.max_new_tokens))
        tokens = stream_tokens(self.model, prefix, options, processors, generator)
        return text_as_it_grows(tokens, self.task.decode_ids, self.writer.skips_space)

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
        """Return the continuation of a story, with the space before its first word.

        See :meth:`stream`.
        """
        return "".join(self.stream(prompt, options, generator))

    def sample(
        self,
        requests: Sequence[str | Sequence[str]],
        num_samples: int,
        options: DecodingOptions,
        batch_size: int = 32,
    ) -> Iterator[Sample]:
        """Return an iterator over samples of requests, several for each, generated in batches.

        Random numbers depend on the seed, the request and the number of the sample. A sample
        therefore does not change if other requests are added or removed, or with another batch
        size (but for rounding, which depends on the sizes of matrices). All requests are checked at
        once. Samples are returned as soon as they are available, in any order.

        Args:
            requests: each as in :meth:`stream`.
            num_samples: number of samples of each request.
            options: decoding options of all requests.
            batch_size: maximum number of samples that are generated together.

        Raises:
            UserError: the model cannot generate a text for a request with these options.
        """
        self.check(options)
        prefixes = []
        for number, request in enumerate(requests, start=1):
            try:
                prefixes.append(self.writer.prefix(request, options, self.device))
            except UserError as error:
                raise UserError(f"prompt {number}: {error}") from None
        options = replace(options, max_len_b=min(options.max_len, self.limits.max_new_tokens))
        seed = torch.Generator().seed() if options.seed is None else options.seed
        seeds = sample_seeds(requests, num_samples, seed)
        return self._sample_batches(prefixes, seeds, options, batch_size)

    def _sample_batches(
        self,
        prefixes: Sequence[Prefix],
        seeds: Sequence[Sequence[int]],
        options: DecodingOptions,
        batch_size: int,
    ) -> Iterator[Sample]:
        """Generate the samples; see :meth:`sample`."""
        lengths = [prefix.net_input["src_tokens"].size(1) for prefix in prefixes]
        pad, processors = self.task.dictionary.pad(), self._processors_for(options)
        for batch in plan_batches(lengths, len(seeds[0]), batch_size) if seeds else ():
            places = [(p.request, p.first + i) for p in batch for i in range(p.size)]
            prefix = join_prefixes([prefixes[p.request] for p in batch], pad)
            draws = uniform_draws([seeds[i][number] for i, number in places], options.max_len)
            texts = sample_tokens(self.model, prefix, draws, options, processors)
            for (request, number), tokens in zip(places, texts):
                text = self.task.decode_ids(tokens)
                text = text.lstrip() if self.writer.skips_space else text
                yield Sample(request, number, text, len(tokens))

    def continue_batch(self, prompts: Sequence[str], options: DecodingOptions) -> Continuations:
        """Continue several prompts in one batch, with the generator of fairseq's commands.

        The model may be in training mode; its mode is restored afterwards. Random numbers come from
        torch's global generator; if a seed is given, the state of that generator is restored
        afterwards.

        Args:
            prompts: texts; the turns of a dialog are separated by tabs.
            options: decoding options of all prompts.

        Raises:
            UserError: a prompt leaves no room for the required number of tokens, or the options
                block n-grams of the context, which in a batch only the task's own option does.
        """
        if options.block_context_ngram:
            raise UserError(
                f"--block-context-ngram {options.block_context_ngram}: prompts of a batch are not "
                "blocked by the options of a request; set it when the checkpoint is loaded"
            )
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

"""Define writers, which implement the parts of a session that depend on the kind of task.

A writer converts a request into input of the encoder, and defines the limits on prompts and texts
and the options that the task cannot satisfy. To add a kind (for example translation), add a
:class:`Kind` and a :class:`Writer`, and select it in :func:`writer_of`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from ..errors import UserError
from ..interfaces import AnswersDialogs, PrefixInput
from .options import DecodingOptions
from .processors import Processor
from .streaming import Prefix, PrefixModel

if TYPE_CHECKING:  # fairseq must be imported after ``plugin.register``
    from fairseq.data import Dictionary


class Kind(enum.StrEnum):
    """Kind of text that a model generates; the value is the name of its task."""

    DIALOG = "dialog_lm"
    STORY = "story_lm"


class Limits(NamedTuple):
    """Limits on prompts and generated texts, in tokens without BOS and EOS tokens."""

    max_prompt_tokens: int  # longer dialogs lose their oldest turns, longer stories are refused
    max_new_tokens: int  # limit after the shortest prompt


# ---------------------------------------------------------------- protocols of tasks


class WritesText(Protocol):
    """A task whose model continues prompts, such as a task of prefix language models."""

    dictionary: Dictionary

    def encode_prompt(self, text: str) -> Tensor:
        """Return the tokens of a prompt with the EOS token, int64 [n + 1]."""
        ...

    def decode_ids(self, ids: Sequence[int]) -> str:
        """Decode a list of token ids to text."""
        ...

    def decode_tokens(self, tokens: Tensor) -> str:
        """Decode generated tokens to text."""
        ...

    def build_dataset_for_inference(self, src_tokens: list[Tensor], src_lengths: list[int]) -> Any:
        """Return a fairseq dataset of prompts."""
        ...

    def build_generator(self, models: list[Any], args: Any) -> Any:
        """Return a fairseq generator."""
        ...

    def inference_step(self, generator: Any, models: list[Any], sample: Any) -> list[list[Any]]:
        """Return the hypotheses of each prompt, the best first."""
        ...


class HasPositions(Protocol):
    """Limits of a dialog task, in tokens with BOS and EOS tokens."""

    @property
    def max_source_positions(self) -> int:
        """Return the maximum length of a prefix."""
        ...

    @property
    def max_target_positions(self) -> int:
        """Return the maximum length of a reply."""
        ...


class DialogTask(WritesText, AnswersDialogs, Protocol):
    """A task that answers dialogs, with its limits and processors."""

    @property
    def limits(self) -> HasPositions:
        """Return the limits on prefixes and replies."""
        ...

    def reply_processors(self) -> list[Processor]:
        """Return the processors that the task's own options select."""
        ...


def batch_of(task: WritesText, prompts: Iterable[str]) -> Any:
    """Return a fairseq batch of prompts."""
    tokens = [task.encode_prompt(prompt) for prompt in prompts]
    dataset = task.build_dataset_for_inference(tokens, [len(t) for t in tokens])
    return dataset.collater([dataset[i] for i in range(len(dataset))])


# ---------------------------------------------------------------------------- writers


class Writer(ABC):
    """The parts of a session that depend on the kind of task."""

    kind: Kind
    skips_space = False  # white space before the first word is not part of a text

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """Return the limits on prompts and generated texts."""

    def processors(self) -> list[Processor]:
        """Return the processors that apply to every request."""
        return []

    def check(self, options: DecodingOptions) -> None:  # noqa: B027  (the default accepts all)
        """Refuse options that the model cannot satisfy for any request.

        Raises:
            UserError: an option is refused; the message contains its value and the rule.
        """

    @abstractmethod
    def read(self, request: str | Sequence[str], device: torch.device) -> Prefix:
        """Return the prefix that the model continues for a request, however long it is.

        Raises:
            UserError: the request is no prompt of the model.
        """

    def prefix(
        self, request: str | Sequence[str], options: DecodingOptions, device: torch.device
    ) -> Prefix:
        """Return the prefix that the model continues for a request with the given options.

        Raises:
            UserError: the model cannot generate a text for the request.
        """
        return self.read(request, device)


class DialogWriter(Writer):
    """Reply to the turns of a dialog, the newest of which comes last."""

    kind = Kind.DIALOG
    skips_space = True

    def __init__(self, task: DialogTask) -> None:
        self.task = task

    @property
    def limits(self) -> Limits:
        limits = self.task.limits
        return Limits(limits.max_source_positions - 1, limits.max_target_positions - 1)

    def processors(self) -> list[Processor]:
        return self.task.reply_processors()

    def check(self, options: DecodingOptions) -> None:
        limit = self.limits.max_new_tokens
        for name, value in (("max-len-b", options.max_len_b), ("min-len", options.min_len)):
            if value is not None and value > limit:
                raise UserError(
                    f"--{name} {value}: the model was trained on replies of at most {limit} "
                    "tokens (--max-target-positions)"
                )

    def read(self, request: str | Sequence[str], device: torch.device) -> Prefix:
        turns = [request] if isinstance(request, str) else list(request)
        return Prefix(*self.task.reply_input(turns, device))


class StoryWriter(Writer):
    """Continue the beginning of a story, which may be empty.

    A story ends when the model has no more positions, even if the options allow more tokens.
    """

    kind = Kind.STORY

    def __init__(self, task: WritesText, model: PrefixModel) -> None:
        self.task = task
        self.model = model

    @property
    def limits(self) -> Limits:
        positions = self.model.max_decoder_positions()  # the BOS token needs one of them
        return Limits(max_prompt_tokens=positions - 2, max_new_tokens=positions - 1)

    def read(self, request: str | Sequence[str], device: torch.device) -> Prefix:
        if not isinstance(request, str):
            raise TypeError(f"a story continues a str, not a {type(request).__name__}")
        net_input = batch_of(self.task, [request])["net_input"]
        dictionary = self.task.dictionary
        moved = {name: value.to(device) for name, value in net_input.items()}
        # in GPT-2's dictionaries, one token begins and ends a text
        marks = {dictionary.bos(), dictionary.pad()} - {dictionary.eos()}
        return Prefix(cast(PrefixInput, moved), dictionary.eos(), sorted(marks))

    def prefix(
        self, request: str | Sequence[str], options: DecodingOptions, device: torch.device
    ) -> Prefix:
        prefix = self.read(request, device)
        length = prefix.net_input["src_tokens"].size(1) - 1  # without the BOS token
        room, least = self.limits.max_new_tokens - length, max(options.min_len, 1)
        if room < least:
            raise UserError(
                f"a prompt of {length} tokens leaves room for {max(room, 0)} new tokens, given the "
                f"model's {self.model.max_decoder_positions()} positions, one of which the BOS "
                f"token needs; --min-len requires {least}: shorten the prompt, or lower --min-len"
            )
        return prefix


def writer_of(task: Any, model: Any) -> Writer:
    """Return the writer for a task of prefix language models and for its model."""
    if isinstance(task, AnswersDialogs):
        return DialogWriter(cast(DialogTask, task))
    return StoryWriter(task, model)

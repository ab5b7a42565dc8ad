"""Writers: what a session does differently for each kind of task.

A writer knows a task, not a checkpoint: how a request becomes what the encoder reads, how much may
be read and written, and which options cannot be satisfied. To add a kind (a translation, say),
add a :class:`Kind` and a :class:`Writer`, and choose it in :func:`writer_of`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from ..errors import UserError
from ..interfaces import AnswersDialogs, PrefixInput
from .options import DecodingOptions
from .processors import Processor
from .streaming import Prefix, PrefixModel

if TYPE_CHECKING:  # fairseq is imported after ``plugin.register`` has cured it
    from fairseq.data import Dictionary


class Kind(enum.StrEnum):
    """What a model writes; the value is the task that trains it."""

    DIALOG = "dialog_lm"
    STORY = "story_lm"


class Limits(NamedTuple):
    """How much a model can read and write, in tokens without begin and end marks."""

    max_prompt_tokens: int  # the older turns of a longer dialog are cut, a longer story is refused
    max_new_tokens: int  # after the shortest prompt


# ---------------------------------------------------------- what is asked of a task


class WritesText(Protocol):
    """A task whose model continues prompts, as those of prefix language models do."""

    dictionary: Dictionary

    def encode_prompt(self, text: str) -> Tensor:
        """Return the tokens of a prompt with the end mark, int64 [n + 1]."""
        ...

    def decode_ids(self, ids: list[int]) -> str:
        """Return the text of token ids."""
        ...

    def decode_tokens(self, tokens: Tensor) -> str:
        """Return the text of generated tokens."""
        ...

    def build_dataset_for_inference(self, src_tokens: list[Tensor], src_lengths: list[int]) -> Any:
        """Return fairseq's dataset of prompts."""
        ...

    def build_generator(self, models: list[Any], args: Any) -> Any:
        """Return fairseq's generator."""
        ...

    def inference_step(self, generator: Any, models: list[Any], sample: Any) -> list[list[Any]]:
        """Return the hypotheses of each prompt, the best first."""
        ...


class HasPositions(Protocol):
    """How much of a dialog a task reads and writes, in tokens with begin and end marks."""

    @property
    def max_source_positions(self) -> int: ...

    @property
    def max_target_positions(self) -> int: ...


class DialogTask(WritesText, AnswersDialogs, Protocol):
    """A task that answers dialogs, with its limits and processors."""

    @property
    def limits(self) -> HasPositions:
        """Return how much is read and written."""
        ...

    def reply_processors(self) -> list[Processor]:
        """Return the processors that the task's own options ask for."""
        ...


def batch_of(task: WritesText, prompts: Iterable[str]) -> Any:
    """Return fairseq's batch of prompts."""
    tokens = [task.encode_prompt(prompt) for prompt in prompts]
    dataset = task.build_dataset_for_inference(tokens, [len(t) for t in tokens])
    return dataset.collater([dataset[i] for i in range(len(dataset))])


# ---------------------------------------------------------------------------- writers


class Writer(ABC):
    """What a session asks of a kind of task."""

    kind: Kind

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """Return how much the model can read and write."""

    def processors(self) -> list[Processor]:
        """Return the processors of every request."""
        return []

    def check(self, options: DecodingOptions) -> None:  # noqa: B027  (nothing is refused here)
        """Refuse options that the model cannot satisfy for any request.

        Raises:
            UserError: names the option, its value and the rule.
        """

    @abstractmethod
    def prefix(
        self, request: str | Sequence[str], options: DecodingOptions, device: torch.device
    ) -> Prefix:
        """Return what the model continues for a request.

        Raises:
            UserError: nothing can be written for it.
        """

    def trim(self, parts: Iterator[str]) -> Iterator[str]:
        """Return the parts of a text without what does not belong to it."""
        return parts


class DialogWriter(Writer):
    """Answer the turns of a dialog, the newest of which comes last."""

    kind = Kind.DIALOG

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
                    f"--{name} {value}: replies of at most {limit} tokens were learned "
                    "(--max-target-positions)"
                )

    def prefix(
        self, request: str | Sequence[str], options: DecodingOptions, device: torch.device
    ) -> Prefix:
        turns = [request] if isinstance(request, str) else list(request)
        return Prefix(*self.task.reply_input(turns, device))

    def trim(self, parts: Iterator[str]) -> Iterator[str]:
        """Leave out the space before the first word of a reply."""
        begun = False
        for part in parts:
            part = part if begun else part.lstrip()
            if part:
                begun = True
                yield part


class StoryWriter(Writer):
    """Continue the beginning of a story, which may be empty.

    A story ends where its prompt leaves no more positions, even if more tokens are allowed.
    """

    kind = Kind.STORY

    def __init__(self, task: WritesText, model: PrefixModel) -> None:
        self.task = task
        self.model = model

    @property
    def limits(self) -> Limits:
        positions = self.model.max_decoder_positions()  # the begin mark takes one
        return Limits(max_prompt_tokens=positions - 2, max_new_tokens=positions - 1)

    def prefix(
        self, request: str | Sequence[str], options: DecodingOptions, device: torch.device
    ) -> Prefix:
        if not isinstance(request, str):
            raise TypeError(f"a story continues one text, not a {type(request).__name__}")
        net_input = batch_of(self.task, [request])["net_input"]
        length = int(net_input["src_lengths"][0]) - 1  # the begin mark
        room, least = self.limits.max_new_tokens - length, max(options.min_len, 1)
        if room < least:
            raise UserError(
                f"a prompt of {length} tokens leaves {max(room, 0)} for its continuation, by the "
                f"model's {self.model.max_decoder_positions()} positions, one of which is the "
                f"begin mark's; --min-len asks for {least}: shorten the prompt, or lower --min-len"
            )
        dictionary = self.task.dictionary
        moved = {name: value.to(device) for name, value in net_input.items()}
        marks = (dictionary.bos(), dictionary.pad())
        return Prefix(cast(PrefixInput, moved), dictionary.eos(), marks)


def writer_of(task: Any, model: Any) -> Writer:
    """Return the writer for a task of prefix language models and its model."""
    if isinstance(task, AnswersDialogs):
        return DialogWriter(cast(DialogTask, task))
    return StoryWriter(task, model)

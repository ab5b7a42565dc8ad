"""Declare the types of batches, and the protocols of models, tasks and criterions.

fairseq passes batches as plain dicts and detects optional methods by ``hasattr``. This module
declares both, so that a misspelt key or method is an error: the type checker reports it in
``make lint``, and at run time every ``forward`` of this project refuses unknown arguments.

Batches stay dicts, because fairseq would turn named tuples into plain tuples when it moves them
between devices. See :mod:`fairtale` for the letters of the shapes. This module imports torch and
fairseq for type checking only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Required, TypedDict, runtime_checkable

if TYPE_CHECKING:
    from fairseq.data import Dictionary
    from torch import Tensor, nn

    from .modules.hard_concrete import HardConcreteGate


# ------------------------------------------------------------------------------- batches


class Packing(TypedDict):
    """Indices that convert M sequences between one packed row and padded rows.

    See ``modules/attention_masks.py``.
    """

    pad_index: Tensor  # int64 [M, T]: for each cell of M padded rows, the packed token it copies
    unpad_index: Tensor  # int64 [N]: for each packed token, its cell in the flattened [M * T]


class DialogSides(TypedDict):
    """Prefix and response lengths of the M dialogs in a packed row."""

    prefix_lengths: Tensor  # int64 [M], with the BOS token and <SEP>
    response_lengths: Tensor  # int64 [M]
    longest: tuple[int, int]  # lengths of the longest prefix and of the longest response


class RowInput(TypedDict, total=False):
    """Input of a prefix language model in training and scoring, which predict every next token."""

    src_tokens: Required[Tensor]  # int64 [B, T], padded at the right; packed rows: [1, N]
    src_lengths: Required[Tensor]  # int64 [B]; packed rows: [1]
    positions: Tensor  # int64 [1, N]; packed rows only
    segments: Tensor  # int64 [1, N]; dialogs only
    packing: Packing  # packed rows only
    sides: DialogSides  # packed dialogs only
    seq2seq: bool  # read the prefixes of packed dialogs in both directions


class PrefixInput(TypedDict, total=False):
    """Input of the encoder of a prefix language model in generation, which continues prefixes."""

    src_tokens: Required[Tensor]  # int64 [B, S], padded at the right
    src_lengths: Required[Tensor]  # int64 [B], each at least 1
    positions: Tensor  # int64 [B, S]; default 0 to S - 1
    segments: Tensor  # int64 [B, S]; dialogs only
    next_positions: Tensor  # int64 [B]: position of the first new token; default src_lengths
    next_segments: Tensor  # int64 [B]; dialogs only
    bidirectional: bool  # read prefixes in both directions; the default depends on the model
    context_tokens: Tensor  # int64 [B, S'], padded at the right: the prefixes before truncation


class Batch(TypedDict, total=False):
    """A batch that a dataset collates and that a task passes to a criterion.

    The first five keys are fairseq's. The criterion ``label_smoothed_kl`` and the criterions
    derived from it also read the other keys, if they are present.
    """

    id: Tensor  # int64 [B]
    nsentences: int
    ntokens: int  # number of predicted tokens
    net_input: Required[Any]  # RowInput, PrefixInput, or the input of another fairseq model
    target: Tensor | None  # int64 [B, T]; padding is not predicted

    loss_mask: Tensor  # bool [B, T], True for a token in the loss
    sample_index: Tensor  # int64 [B, T]: the sample that a token belongs to; default: its row
    nbytes: int  # UTF-8 bytes of the target text
    nwords: int  # words of the target text, separated by white space
    padded_tokens: int  # number of cells of the padded batch, padding included
    real_tokens: int  # number of cells without padding, if it differs from ``ntokens``
    update_num: int  # number of the update that the training batch belongs to


class DialogBatch(Batch, total=False):
    """A batch of packed dialogs."""

    response_mask: Tensor  # bool [1, N], True where a response token or its EOS is predicted
    response_ntokens: int
    response_nbytes: int
    context_tokens: Tensor  # int64 [M, S'], as in PrefixInput; only if the dataset keeps contexts


class ParallelBatch(Batch, total=False):
    """A batch of sentence pairs for validation."""

    scored: Tensor  # bool [B], True for a pair whose translation is scored


# --------------------------------------------------------------- protocols of models


@runtime_checkable
class ShowsOutputWeight(Protocol):
    """A model whose logits are ``features @ output_weight().T``.

    The loss can then compute the projection to the vocabulary in chunks. The features are those of
    ``model(..., features_only=True)``.
    """

    def output_weight(self) -> Tensor:
        """Return the weight of the projection to the vocabulary, [V, C].

        Entries of the dictionary from V on are never predicted and never targets.
        """
        ...


@runtime_checkable
class DeclaresOptions(Protocol):
    """A model that can be built again from the options in its checkpoint."""

    shape_options: Collection[str]  # names of options that its weights determine

    @classmethod
    def all_options(cls) -> Collection[str]:
        """Return the names of all options."""
        ...


@runtime_checkable
class HasGates(Protocol):
    """A model whose attention heads have gates."""

    def gates(self) -> dict[str, HardConcreteGate]:
        """Return the gates by the name of their attention, such as ``encoder.0`` or ``cross.1``."""
        ...


@runtime_checkable
class NamesLayers(Protocol):
    """A model whose layers can be fine-tuned with learning rates of their own, or frozen."""

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Return names and parameters of all parts, from bottom to top.

        The first entry contains the embeddings (with a tied output embedding), the last one
        contains what follows the last layer (final norm, untied output projection), and the
        others contain one layer each. Each parameter of the model is in exactly one entry.
        """
        ...


# ---------------------------------------------------------------- protocols of tasks


class PrefixTask(Protocol):
    """A task for which a prefix language model can be built."""

    dictionary: Dictionary

    @property
    def needed_positions(self) -> int:
        """The number of positions that the task's rows need."""
        ...

    @property
    def num_segments(self) -> int:
        """The number of segments; 0 for a model without segment embeddings."""
        ...


@runtime_checkable
class ChecksCheckpoint(Protocol):
    """A task that can refuse a checkpoint before its weights are loaded."""

    def check_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Raise ``UserError`` if the checkpoint's task state belongs to other data."""
        ...


@runtime_checkable
class ChecksResumed(Protocol):
    """A task that can refuse to resume a training with different options."""

    def check_resumed(self, state_dict: dict[str, Any]) -> None:
        """Raise ``UserError`` if the checkpoint's training began with other options."""
        ...


@runtime_checkable
class KnowsDirection(Protocol):
    """A translation task whose checkpoints contain their source and target language."""

    @staticmethod
    def direction_of(state_dict: dict[str, Any]) -> Sequence[str] | None:
        """Return the source and target language in a checkpoint's task state, or None."""
        ...


@runtime_checkable
class RemembersOptions(Protocol):
    """A task that stores options in the task state of its checkpoints."""

    remembered: Mapping[str, Any]  # name of each option -> its default


@runtime_checkable
class ChecksCommand(Protocol):
    """A task that can refuse a command line before a checkpoint is loaded."""

    def check_command(self, args: Any) -> None:
        """Raise ``UserError`` for options that contradict each other or a file; a class method."""
        ...


@runtime_checkable
class ChoosesFastProducts(Protocol):
    """A task that selects the library for fp32 matrix products, for all of its architectures."""

    fast_fp32_products: bool  # use oneDNN for fp32 matrix products where MKL is slow


@runtime_checkable
class WritesReplies(Protocol):
    """A task whose model can reply to training prefixes (for sequence-level unlikelihood)."""

    def write_replies(self, model: nn.Module, sample: Batch, max_len: int) -> DialogBatch:
        """Return a batch of the same prefixes with greedy replies of at most ``max_len`` tokens."""
        ...


@runtime_checkable
class AnswersDialogs(Protocol):
    """A task that can convert the turns of a dialog into input of the encoder."""

    def reply_input(self, turns: list[str], device: Any) -> tuple[PrefixInput, int, Sequence[int]]:
        """Return the prefix [1, S], the EOS token, and the tokens that replies must not contain."""
        ...


@runtime_checkable
class HasPlainText(Protocol):
    """A task that can convert tokens into detokenised text."""

    def plain_text(self, tokens: Tensor, unknown: str = "<unk>", source: bool = False) -> str:
        """Return the text of ``tokens``, detokenised."""
        ...


# ---------------------------------------------- protocols of criterions and schedules


@runtime_checkable
class FollowsUpdates(Protocol):
    """A criterion with a step at the end of each update, before validation and saving."""

    def end_update(self, model: nn.Module, num_updates: int) -> None:
        """Run after the optimizer's step; ``num_updates`` is the number of finished updates."""
        ...


@runtime_checkable
class StepsOnValidation(Protocol):
    """A learning-rate schedule that is updated by every validation, not only once per epoch."""

    def step_validation(self, value: float) -> None:
        """Update the schedule from a validation result."""
        ...

"""What travels between the rooms: batches, and what rooms ask of models, tasks and criterions.

fairseq passes batches as plain dicts and finds abilities by ``hasattr``. Here both are declared,
so that a misspelt key or method is an error: in ``make lint`` by the type checker, and at run
time because no ``forward`` of ours swallows unknown arguments.

Batches stay dicts, since fairseq moves them between devices and would turn a named tuple into a
plain one. For the letters of the shapes see :mod:`fairtale`. Nothing here imports torch or fairseq
when the program runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Required, TypedDict, runtime_checkable

if TYPE_CHECKING:
    from fairseq.data import Dictionary
    from torch import Tensor, nn

    from .modules.hard_concrete import HardConcreteGate


# ------------------------------------------------------------------------------- batches


class Packing(TypedDict):
    """Where the sequences of one row without padding stand; see ``modules/attention_masks.py``."""

    pad_index: Tensor  # int64 [M, T]: for each cell of M padded rows the token copied there
    unpad_index: Tensor  # int64 [N]: for each token its cell in the flattened [M * T]


class DialogSides(TypedDict):
    """Lengths of the two sides of the M dialogs of a packed row."""

    prefix_lengths: Tensor  # int64 [M], with the begin mark and <SEP>
    response_lengths: Tensor  # int64 [M]
    longest: tuple[int, int]  # the longest prefix and the longest response


class RowInput(TypedDict, total=False):
    """What a prefix language model reads to predict each next token (training, scoring)."""

    src_tokens: Required[Tensor]  # int64 [B, T], padding at the right; packed [1, N]
    src_lengths: Required[Tensor]  # int64 [B]; packed [1]
    positions: Tensor  # int64 [1, N]; packed rows only
    segments: Tensor  # int64 [1, N]; dialogs only
    packing: Packing  # packed rows only
    sides: DialogSides  # packed dialogs only
    seq2seq: bool  # read the prefixes of packed dialogs in both directions


class PrefixInput(TypedDict, total=False):
    """What the encoder of a prefix language model reads to continue prefixes (generation)."""

    src_tokens: Required[Tensor]  # int64 [B, S], padding at the right
    src_lengths: Required[Tensor]  # int64 [B], each at least 1
    positions: Tensor  # int64 [B, S]; default 0 to S - 1
    segments: Tensor  # int64 [B, S]; dialogs only
    next_positions: Tensor  # int64 [B]: position of the first new token; default src_lengths
    next_segments: Tensor  # int64 [B]; dialogs only
    bidirectional: bool  # read prefixes in both directions; default as the model was built


class Batch(TypedDict, total=False):
    """What a dataset makes of samples, and a task hands to a criterion.

    The first five are fairseq's own. The others are read by ``label_smoothed_kl`` and the
    criterions built on it, where present.
    """

    id: Tensor  # int64 [B]
    nsentences: int
    ntokens: int  # tokens that are predicted
    net_input: Required[Any]  # RowInput, PrefixInput, or what another model of fairseq reads
    target: Tensor | None  # int64 [B, T]; padding is not predicted

    loss_mask: Tensor  # bool [B, T], True = in the loss
    sample_index: Tensor  # int64 [B, T]: which sample a token is of; default its row
    nbytes: int  # UTF-8 bytes of the text that the targets stand for
    padded_tokens: int  # cells of the padded batch
    real_tokens: int  # tokens among them, where these are more than ``ntokens``
    update_num: int  # the update that a training batch belongs to


class DialogBatch(Batch, total=False):
    """A batch of packed dialogs."""

    response_mask: Tensor  # bool [1, N], True where a response token or its end is predicted
    response_ntokens: int
    response_nbytes: int


class ParallelBatch(Batch, total=False):
    """A batch of sentence pairs for validation."""

    scored: Tensor  # bool [B], True for a pair whose translation is scored


# --------------------------------------------------------- what is asked of a model


@runtime_checkable
class ShowsOutputWeight(Protocol):
    """A model whose logits are ``features @ output_weight().T``: the loss projects in chunks."""

    def output_weight(self) -> Tensor:
        """Return the projection to the vocabulary [V, C]."""
        ...


@runtime_checkable
class HasGates(Protocol):
    """A model whose attention heads have gates."""

    def gates(self) -> dict[str, HardConcreteGate]:
        """Return the gates by attention: ``encoder.0``, ``decoder.3``, ``cross.1``."""
        ...


# ---------------------------------------------------------- what is asked of a task


class PrefixTask(Protocol):
    """What a prefix language model needs to know of its task when it is built."""

    dictionary: Dictionary

    @property
    def needed_positions(self) -> int:
        """How many positions the task's rows need."""
        ...

    @property
    def num_segments(self) -> int:
        """How many segments tokens have; 0 for none."""
        ...


@runtime_checkable
class ChecksCheckpoint(Protocol):
    """A task that can refuse a checkpoint before its weights are loaded."""

    def check_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Raise ``UserError`` for the task state of a checkpoint made on other data."""
        ...


@runtime_checkable
class ChecksResumed(Protocol):
    """A task that can refuse to go on otherwise than training began."""

    def check_resumed(self, state_dict: dict[str, Any]) -> None:
        """Raise ``UserError`` for the task state of a training begun with other options."""
        ...


@runtime_checkable
class KnowsDirection(Protocol):
    """A translation task whose checkpoints say from which language into which they translate."""

    @staticmethod
    def direction_of(state_dict: dict[str, Any]) -> Sequence[str] | None:
        """Return the source and target language of a checkpoint's task state, or None."""
        ...


@runtime_checkable
class ChoosesFastProducts(Protocol):
    """A task that says how its models compute, so that all its architectures stay comparable."""

    fast_fp32_products: bool  # run fp32 products through oneDNN where MKL is slow


@runtime_checkable
class WritesReplies(Protocol):
    """A task whose model can answer its own training prefixes (sequence-level unlikelihood)."""

    def write_replies(self, model: nn.Module, sample: Batch, max_len: int) -> DialogBatch:
        """Return a batch of the same prefixes with greedy replies of at most ``max_len``."""
        ...


@runtime_checkable
class AnswersDialogs(Protocol):
    """A task that can turn a dialog's turns into what the encoder reads."""

    def reply_input(self, turns: list[str], device: Any) -> tuple[PrefixInput, int, Sequence[int]]:
        """Return the prefix [1, S], the end mark, and the tokens that no reply holds."""
        ...


@runtime_checkable
class HasPlainText(Protocol):
    """A task that can turn tokens back into text as people write it."""

    def plain_text(self, tokens: Tensor, unknown: str = "<unk>", source: bool = False) -> str:
        """Return the text of ``tokens``, detokenised."""
        ...


# ----------------------------------------- what is asked of criterions and schedules


@runtime_checkable
class FollowsUpdates(Protocol):
    """A criterion that acts when an update has ended, before anything is saved or validated."""

    def end_update(self, model: nn.Module, num_updates: int) -> None:
        """Act after the optimizer's step; ``num_updates`` counts the updates done."""
        ...


@runtime_checkable
class StepsOnValidation(Protocol):
    """A learning-rate schedule that follows every validation, not only those of epochs' ends."""

    def step_validation(self, value: float) -> None:
        """Update the schedule from a validation result."""
        ...

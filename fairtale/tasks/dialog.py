"""Base class of the dialog tasks, with the options and limits of their data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from torch import Tensor

from ..data.dialog.cutting import DialogLimits
from ..data.dialog.dataset import DialogDataset, Echo, report_dialog_dataset
from ..data.dialog.line_format import CTX, SEP, TURN_SEPARATOR, join_turns
from ..errors import UserError
from .text_task import TextTask


@dataclass
class DialogDataConfig(FairseqDataclass):
    """Options of all dialog tasks for the data and its limits."""

    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder made by fairseq-preprocess; several folders, separated by ':', are "
            "joined"
        },
    )
    max_context_turns: Optional[int] = field(
        default=None,
        metadata={"help": "maximum number of context turns before the query (default: 10)"},
    )
    max_source_positions: Optional[int] = field(
        default=None,
        metadata={
            "help": "maximum number of prefix tokens; the oldest turns are cut (default: 256)"
        },
    )
    max_target_positions: Optional[int] = field(
        default=None,
        metadata={
            "help": "maximum number of response tokens, with the end-of-sentence token "
            "(default: 64)"
        },
    )


class DialogTask(TextTask):
    """A task of dialogs, read as ``context <CTX> query <SEP> response``, for any kind of model.

    Raises:
        UserError: an option is out of range, or the dictionary lacks ``<CTX>`` or ``<SEP>``.
    """

    remembered = {"max_context_turns": 10, "max_source_positions": 256, "max_target_positions": 64}

    def __init__(self, cfg: Any, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        for name, least in (
            ("max_context_turns", 0),
            ("max_source_positions", 3),
            ("max_target_positions", 2),
        ):
            value = getattr(cfg, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
        self.ctx, self.sep = (dictionary.index(mark) for mark in (CTX, SEP))
        if dictionary.unk() in (self.ctx, self.sep):
            raise UserError(
                f"{cfg.data}/dict.txt lacks {CTX} or {SEP}: make it with "
                "'fairtale spm train --dialog' or 'fairtale bpe train --dialog'"
            )

    @property
    def limits(self) -> DialogLimits:
        """The limits on the lengths of prefixes and responses."""
        return DialogLimits(
            self.option("max_context_turns"),
            self.option("max_source_positions"),
            self.option("max_target_positions"),
        )

    def load_dialogs(
        self,
        split: str,
        combine: bool = False,
        reverse: bool = False,
        echo: Echo | None = None,
    ) -> DialogDataset:
        """Load a split of every data folder that has it, and log its statistics.

        Args:
            split: name of the split.
            combine: join ``split``, ``split1``, ``split2``, ..., up to the first that is missing.
            reverse: swap query and response, to train the reverse model of ``--mmi-path``.
            echo: replace some responses by their queries.

        Raises:
            UserError: the split does not exist, or contains no dialog.
        """
        dialogs = DialogDataset(
            self.load_lines(split, combine),
            self.dictionary,
            self.ctx,
            self.sep,
            self.limits,
            self.text_bytes(split),
            shuffle=split == "train",
            reverse=reverse,
            echo=echo,
        )
        report_dialog_dataset(split, dialogs)
        return dialogs

    def encode_prompt(self, text: str) -> Tensor:
        """Encode a prefix; return its tokens with ``</s>``, int64 [n + 1].

        Args:
            text: turns separated by tabs, the query last.

        Raises:
            UserError: the query is empty.
        """
        return self.encode_turns(text.split(TURN_SEPARATOR))

    def encode_turns(self, turns: list[str]) -> Tensor:
        """Return the tokens of a prefix, with ``</s>``, int64 [n + 1].

        Args:
            turns: the query last; a tab in a turn is white space.

        Raises:
            UserError: the query is empty.
        """
        pieces = [self.encode_text(turn.replace(TURN_SEPARATOR, " ")) for turn in turns]
        return self.encode_pieces(join_turns(pieces))

    def get_interactive_tokens_and_lengths(
        self, lines: list[str], encode_fn: Callable[[str], str]
    ) -> tuple[list[Tensor], list[int]]:
        """Encode input lines of ``fairseq-interactive``, in which tabs separate the turns."""
        tokens = []
        for number, line in self.numbered(lines):
            turns = [encode_fn(turn).split() for turn in line.split(TURN_SEPARATOR)]
            try:
                tokens.append(self.encode_pieces(join_turns(turns)))
            except UserError as error:
                raise UserError(f"input line {number}: {error}") from None
        return tokens, [len(t) for t in tokens]

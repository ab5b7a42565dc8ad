"""Base class of the tasks with one dictionary: stored options, data, prompts and text."""

import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from fairseq import utils
from fairseq.data import ConcatDataset, Dictionary
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..data.corpus.binarized import load_binarized
from ..data.corpus.text_lines import check_utf8
from ..data.corpus.tokenizer import (
    build_pieces,
    decode_continuation,
    encode_inside,
    load_dictionary,
)
from ..data.corpus.tokenizer_dictionary import read_dictionary
from ..data.corpus.vocabulary import find_tokenizer, fingerprint
from ..errors import UserError

logger = logging.getLogger(__name__)


class TextTask(FairseqTask):
    """A task whose data are lines of sub-word pieces, with one dictionary and one tokenizer.

    The tokenizer is the one beside the data, ``sentencepiece.bpe.model`` or ``tokenizer.json``,
    unless ``--bpe`` selects another. Checkpoints store the options in ``remembered``; an option
    that is not given has the stored value.

    Args:
        cfg: config of the registered task; ``data`` contains the data folders.
        dictionary: fairseq's dictionary, the same for all folders.
    """

    # default of each stored option if neither the user nor the checkpoint gives a value
    remembered: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, cfg: Any, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self._options = {name: getattr(cfg, name) for name in self.remembered}
        self._bpe: Any = None
        self._lines_read = self.lines_before = 0  # input lines of fairseq-interactive

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> Self:
        """Load the dictionary of the data.

        Raises:
            UserError: no dictionary is found, or those of several data folders differ.
        """
        if not cfg.data:
            raise UserError("no data folder given: give one that fairseq-preprocess has made")
        paths = utils.split_paths(cfg.data)
        dictionary = load_dictionary(paths, "dict.txt", "fairseq-preprocess --only-source")
        logger.info("dictionary: %d types", len(dictionary))
        return cls(cfg, dictionary)

    @classmethod
    def load_dictionary(cls, filename: str) -> Dictionary:
        """Load a ``dict.txt``, also one with a tokenizer's ids (for ``fairseq-preprocess``)."""
        return read_dictionary(filename)

    @property
    def source_dictionary(self) -> Dictionary:
        """The dictionary, under the name that fairseq's commands use."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The dictionary, under the name that fairseq's generators and criterions use."""
        return self.dictionary

    # ---------------------------------------------------------------------- stored options

    def option(self, name: str) -> Any:
        """Return the value of an option: the given one, the checkpoint's, or the default."""
        value = self._options[name]
        return self.remembered[name] if value is None else value

    def state_dict(self) -> dict[str, Any]:
        """Return the options and the dictionary's fingerprint, to be stored in the checkpoint."""
        state = {name: self.option(name) for name in self.remembered}
        return {**state, "dictionary": fingerprint(self.dictionary)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the options that are not given from the task state of a checkpoint.

        Raises:
            UserError: the checkpoint was trained with another dictionary.
        """
        self.check_checkpoint(state_dict)
        for name in self.remembered:
            if self._options[name] is None:
                self._options[name] = state_dict.get(name)

    def check_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained with another dictionary.

        It is also called before training loads a checkpoint.

        Raises:
            UserError: the dictionaries differ.
        """
        known = state_dict.get("dictionary")
        if known is not None and known != fingerprint(self.dictionary):
            raise UserError(
                f"the checkpoint was trained with another dictionary than {self.cfg.data}/dict.txt "
                f"({len(self.dictionary)} entries): use the data folder that it was trained on"
            )

    def check_resumed(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume a training with other values of stored options that are not given.

        An option that is explicitly given may differ; this is logged.

        Raises:
            UserError: an option that is not given had another value when training began.
        """
        for name in self.remembered:
            before, now = state_dict.get(name), self.option(name)
            if before is None or before == now:
                continue
            option = f"--{name.replace('_', '-')}"
            given = getattr(self.cfg, name)
            if given is None or given is False:
                again = option if before is True else f"{option} {before}"
                raise UserError(
                    f"training began with {again}, and would continue with {now}: give {again} "
                    "again, or start a new training in another --save-dir"
                )
            logger.warning("training began with %s %s and continues with %s", option, before, now)

    # ------------------------------------------------------------------------------- data

    def has_sharded_data(self, split: str) -> bool:
        """Return False, because several folders are joined, not used in different epochs."""
        return False

    def load_lines(self, split: str, combine: bool = False) -> Any:
        """Return the indexed dataset of a split, joined from all data folders that have it.

        Args:
            split: name of the split.
            combine: join ``split``, ``split1``, ``split2``, ..., up to the first that is missing.

        Raises:
            UserError: no folder has the split, or it is damaged.
        """
        parts = []
        for path in utils.split_paths(self.cfg.data):
            part = load_binarized(os.path.join(path, split), self.dictionary, combine)
            if part is not None:
                parts.append(part)
        if not parts:
            raise UserError(f"split {split} not found in {self.cfg.data}: run prepare.sh again?")
        return parts[0] if len(parts) == 1 else ConcatDataset(parts)

    # ---------------------------------------------------------------------- prompts, text

    def build_bpe(self, args: Any) -> Any:
        """Build the tokenizer that ``--bpe`` selects, or else the one beside the data."""
        return build_pieces(args, find_tokenizer(utils.split_paths(self.cfg.data)))

    def get_interactive_tokens_and_lengths(
        self, lines: list[str], encode_fn: Callable[[str], str]
    ) -> tuple[list[Tensor], list[int]]:
        """Encode input lines of ``fairseq-interactive``."""
        lines = [line for _, line in self.numbered(lines)]
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def numbered(self, lines: list[str]) -> Iterator[tuple[int, str]]:
        """Yield each line of a buffer with its number in the whole input, counted from 1.

        Raises:
            UserError: a line is not valid UTF-8.
        """
        self.lines_before = self._lines_read
        self._lines_read += len(lines)
        for number, line in enumerate(lines, self.lines_before + 1):
            check_utf8(line, number)
            yield number, line

    def encode_text(self, text: str) -> list[str]:
        """Split a text into pieces."""
        self._bpe = self._bpe or self.build_bpe(Namespace(bpe=None))
        return (text if self._bpe is None else self._bpe.encode(text)).split()

    def encode_inside(self, word: str) -> list[str]:
        """Split a word into pieces, as it is split inside a text."""
        self.encode_text("")  # builds the tokenizer
        return (word if self._bpe is None else encode_inside(self._bpe, word)).split()

    def encode_pieces(self, pieces: list[str]) -> Tensor:
        """Look up pieces in the dictionary; return tokens with ``</s>``, int64 [n + 1]."""
        return self.dictionary.encode_line(
            " ".join(pieces), line_tokenizer=str.split, add_if_not_exist=False
        ).long()

    def encode_prompt(self, text: str) -> Tensor:
        """Encode a prompt; return its tokens with ``</s>``, int64 [n + 1]."""
        return self.encode_pieces(self.encode_text(text))

    def decode_tokens(self, tokens: Tensor) -> str:
        """Decode generated tokens, int [n], to text."""
        return self.decode_ids(tokens.tolist())

    def decode_ids(self, ids: Sequence[int]) -> str:
        """Decode a list of token ids to text."""
        words = self.dictionary
        marks = (
            words.bos(),
            words.eos(),
        )  # fairseq's `string` does the same in five times the time
        pieces = " ".join([words[i] for i in ids if i not in marks])
        if self._bpe is None:
            return pieces
        return decode_continuation(self._bpe, pieces)

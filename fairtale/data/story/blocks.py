"""Datasets of long texts, cut into blocks so that no token is lost."""

import logging

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary
from torch import Tensor

from ...errors import UserError
from ..corpus.arrays import Ints
from ..corpus.row_slices import row_slice
from ..corpus.sized_dataset import TokenRows
from ..corpus.words import WordCounter
from .dataset import StoryDataset, StorySample

logger = logging.getLogger(__name__)

BREAK_MODES = ("eos", "split", "none")  # values of --sample-break-mode


class BlockDataset(StoryDataset):
    """A dataset of consecutive blocks of texts: every token is a target in exactly one block.

    The input of a block is the token before each target: BOS before the first token of a text,
    and within a text the token before the block. So only the first block of a text begins with
    BOS, and only the last one ends with EOS.

    With ``across``, the texts are joined in their order and cut into blocks of exactly
    ``tokens_per_sample`` tokens, but for the last. A block then holds the end of a text and the
    beginning of the next, and attention crosses the boundary, as with fairseq's
    ``--sample-break-mode none``. Without it, the last block of a text is shorter, and no block
    holds tokens of two texts.

    Rows with no more than EOS are left out. Memory: 8 bytes for each row, 4 for each block.

    Args:
        tokens, sizes, dictionary, tokens_per_sample, token_bytes, shuffle, pack, words: as in
            :class:`StoryDataset`.
        across: cut blocks across texts.
    """

    def __init__(
        self,
        tokens: TokenRows,
        sizes: npt.ArrayLike,
        dictionary: Dictionary,
        tokens_per_sample: int,
        token_bytes: Tensor,
        shuffle: bool = True,
        pack: bool = False,
        words: WordCounter | None = None,
        across: bool = False,
    ) -> None:
        super().__init__(
            tokens, sizes, dictionary, tokens_per_sample, token_bytes, shuffle, pack, words
        )
        lengths = np.asarray(sizes)
        lengths = np.where(lengths > 1, lengths, 0)  # a row with only EOS has no block
        self.across = across
        self.num_texts, self.num_cut = int((lengths > 0).sum()), 0
        self.num_empty = len(lengths) - self.num_texts
        if across:
            # index of the first token of each row in the joined texts, and the end
            self._starts: Ints = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            total = int(self._starts[-1])
            count = -(-total // tokens_per_sample)
            self.sizes = np.full(count, tokens_per_sample, dtype=np.int32)
            if count:
                self.sizes[-1] = total - (count - 1) * tokens_per_sample
        else:
            # number of the first block of each row, and the number of all blocks
            counts = -(-lengths.astype(np.int64) // tokens_per_sample)
            self._starts = np.concatenate([[0], np.cumsum(counts)])
            self.sizes = np.full(int(self._starts[-1]), tokens_per_sample, dtype=np.int32)
            kept = lengths > 0
            last = (lengths[kept] - 1) % tokens_per_sample + 1
            self.sizes[self._starts[1:][kept] - 1] = last
        self.indices = np.arange(len(self.sizes))

    def __getitem__(self, index: int) -> StorySample:
        if index < 0 or index >= len(self.sizes):
            raise IndexError(f"block {index} of {len(self.sizes)}")
        if self.across:
            parts = self._parts_across(index)
        else:
            row = int(np.searchsorted(self._starts, index, side="right")) - 1
            start = (index - int(self._starts[row])) * self.tokens_per_sample
            parts = [self._part(row, start, start + int(self.sizes[index]))]
        sources, targets = zip(*parts)
        return {"id": index, "source": torch.cat(sources), "target": torch.cat(targets)}

    def _parts_across(self, index: int) -> list[tuple[Tensor, Tensor]]:
        start = index * self.tokens_per_sample
        stop = start + int(self.sizes[index])
        row = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while start < stop:
            first, behind = int(self._starts[row]), int(self._starts[row + 1])
            if behind > first:
                parts.append(self._part(row, start - first, min(stop, behind) - first))
                start = min(stop, behind)
            row += 1
        return parts

    def _part(self, row: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and the targets of the tokens ``start`` to ``stop - 1`` of a row."""
        if start > 0:
            piece = row_slice(self.tokens, row, start - 1, stop)
            return piece[:-1], piece[1:]
        target = row_slice(self.tokens, row, 0, stop)
        return torch.cat([target.new_tensor([self.dictionary.bos()]), target[:-1]]), target

    def report(self, split: str) -> None:
        """Log the size of a split and how full its blocks are.

        Raises:
            UserError: the split holds no text.
        """
        total = int(self.sizes.sum(dtype=np.int64))
        room = max(1, len(self) * self.tokens_per_sample)
        logger.info(
            "%s: %d works, %d tokens in %d blocks of at most %d, %.1f %% full; left out as empty: "
            "%d",
            split,
            self.num_texts,
            total,
            len(self),
            self.tokens_per_sample,
            100 * total / room,
            self.num_empty,
        )
        if not self.num_texts:
            raise UserError(f"split {split} holds no work: all {self.num_empty} rows are empty")

"""Datasets of stories for training and of prompts for generation."""

import logging
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from torch import Tensor

from ...errors import UserError
from ...interfaces import Batch, PrefixInput, RowInput
from ...modules.attention_masks import packing_index
from ..corpus.arrays import Ints
from ..corpus.row_slices import row_slice
from ..corpus.sized_dataset import SizedDataset, TokenRows, no_batch
from ..corpus.words import WordCounter

logger = logging.getLogger(__name__)


class StorySample(TypedDict):
    """One story of a :class:`StoryDataset`."""

    id: int
    source: Tensor  # int64 [T]: <s> w1 ... wn
    target: Tensor  # int64 [T]: w1 ... wn </s>


class PromptSample(TypedDict):
    """One prompt of a :class:`PromptDataset`."""

    id: int
    source: Tensor  # int64 [S]: <s> w1 ... wn


class StoryDataset(SizedDataset):
    """A dataset of stories: the input ``<s> w1 ... wn`` has the target ``w1 ... wn </s>``.

    Args:
        tokens: rows of stories, each ending with ``</s>``; read lazily.
        sizes: lengths of the rows in tokens, int [num_stories].
        dictionary: fairseq's dictionary.
        tokens_per_sample: maximum number of tokens of a story; longer stories are truncated.
        token_bytes: UTF-8 bytes that each dictionary entry stands for, [V].
        shuffle: shuffle stories of equal lengths, and the batches, in every epoch.
        pack: put the stories of a batch into one row without padding; with ``shuffle``, a batch
            then holds stories of all lengths.
        words: counts the words of a batch for the perplexity per word; None: they are not counted.
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
    ) -> None:
        self.tokens = tokens
        self.sizes = np.minimum(np.asarray(sizes), tokens_per_sample)
        self.dictionary = dictionary
        self.tokens_per_sample = tokens_per_sample
        self.token_bytes = token_bytes
        self.shuffle = shuffle
        self.pack = pack
        self.words = words
        self.epoch = 1
        self.indices = np.flatnonzero(np.asarray(sizes) > 1)
        self.num_empty = len(self.sizes) - len(self.indices)
        self.num_cut = int((np.asarray(sizes) > tokens_per_sample).sum())

    def __getitem__(self, index: int) -> StorySample:
        target = row_slice(self.tokens, index, 0, int(self.sizes[index]))
        source = torch.cat([target.new_tensor([self.dictionary.bos()]), target[:-1]])
        return {"id": index, "source": source, "target": target}

    def ordered_indices(self) -> Ints:
        """Return the indices of the stories that are not empty.

        They are sorted by length and, with ``shuffle``, shuffled among equal lengths. Packed and
        shuffled stories are in random order.
        """
        order = np.random.permutation(self.indices) if self.shuffle else self.indices
        if self.pack and self.shuffle:
            return order
        return order[np.argsort(self.sizes[order], kind="stable")]

    def batch_by_size(
        self,
        indices: Ints,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> Sequence[Ints]:
        """Split the indices into batches; packed batches have no padding to count.

        Raises:
            UserError: a story has more than ``max_tokens`` tokens.
        """
        longest = int(self.sizes[indices].max(initial=0))
        if max_tokens is not None and longest > max_tokens:
            raise UserError(
                f"--max-tokens {max_tokens}: the longest story has {longest} tokens; raise it, "
                "or lower --tokens-per-sample"
            )
        if not self.pack:
            batches: Sequence[Ints] = super().batch_by_size(
                indices, max_tokens, max_sentences, required_batch_size_multiple
            )
            return batches
        packed, start, total = [], 0, 0
        sizes = self.sizes[indices]
        for i, size in enumerate(sizes):
            full = max_tokens is not None and total + size > max_tokens
            if i > start and (full or i - start == max_sentences):
                packed.append(indices[start:i])
                start, total = i, 0
            total += size
        if start < len(indices):
            packed.append(indices[start:])
        return packed

    def collater(self, samples: list[StorySample]) -> Batch:
        """Merge stories into a batch, the longest first; with ``pack``, into a single row."""
        if not samples:
            return no_batch()
        samples = sorted(samples, key=lambda s: -len(s["target"]))
        sources = [s["source"] for s in samples]
        targets = [s["target"] for s in samples]
        lengths = torch.tensor([len(x) for x in targets])
        net_input: RowInput
        if self.pack:
            pad_index, unpad_index = packing_index(lengths)
            net_input = {
                "src_tokens": torch.cat(sources).unsqueeze(0),
                "src_lengths": lengths.sum().view(1),
                "positions": torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0),
                "packing": {"pad_index": pad_index, "unpad_index": unpad_index},
            }
            target = torch.cat(targets).unsqueeze(0)
        else:
            pad = self.dictionary.pad()
            net_input = {"src_tokens": collate_tokens(sources, pad), "src_lengths": lengths}
            target = collate_tokens(targets, pad)
        batch: Batch = {
            "id": torch.tensor([s["id"] for s in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
            "nbytes": round(float(sum(self.token_bytes[x].sum() for x in targets))),
            "net_input": net_input,
            "target": target,
            "padded_tokens": target.numel(),
        }
        if self.words is not None:
            batch["nwords"] = sum(map(self.words.count, sources, targets))
        if self.pack:
            batch["sample_index"] = torch.arange(len(samples)).repeat_interleave(lengths)[None]
        return batch

    def report(self, split: str) -> None:
        """Log the size of a split and how many stories are left out or truncated.

        Raises:
            UserError: the split holds no story.
        """
        kept = len(self.indices)
        logger.info(
            "%s: %d stories, %d tokens; left out as empty: %d; cut to %d tokens: %d",
            split,
            kept,
            int(self.sizes[self.indices].sum()),
            self.num_empty,
            self.tokens_per_sample,
            self.num_cut,
        )
        if kept == 0:
            raise UserError(f"split {split} holds no story: all {len(self)} rows are empty")


class PromptDataset(SizedDataset):
    """A dataset of prompts to continue: ``<s> w1 ... wn``, without ``</s>``.

    Args:
        prompts: int64 tensors, with or without ``</s>`` at the end.
        dictionary: fairseq's dictionary.
    """

    def __init__(self, prompts: Iterable[Tensor], dictionary: Dictionary) -> None:
        begin = torch.tensor([dictionary.bos()])
        self.prompts = [
            torch.cat([begin, p[:-1] if len(p) and p[-1] == dictionary.eos() else p])
            for p in prompts
        ]
        self.sizes = np.array([len(p) for p in self.prompts])
        self.dictionary = dictionary

    def __getitem__(self, index: int) -> PromptSample:
        return {"id": index, "source": self.prompts[index]}

    def ordered_indices(self) -> Ints:
        """Return the indices of the prompts in order of length."""
        return np.argsort(self.sizes, kind="stable")

    def collater(self, samples: list[PromptSample]) -> Batch:
        """Merge prompts into a batch with padding on the right."""
        if not samples:
            return no_batch()
        rows = [s["source"] for s in samples]
        net_input: PrefixInput = {
            "src_tokens": collate_tokens(rows, self.dictionary.pad()),
            "src_lengths": torch.tensor([len(r) for r in rows]),
        }
        return {
            "id": torch.tensor([s["id"] for s in samples]),
            "nsentences": len(samples),
            "ntokens": sum(map(len, rows)),
            "net_input": net_input,
            "target": None,
        }

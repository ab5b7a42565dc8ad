"""Datasets of dialogs for training and of prefixes for generation."""

import logging
from collections.abc import Iterable
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from torch import Tensor

from ...errors import UserError
from ...interfaces import Batch, DialogBatch, PrefixInput, RowInput
from ...modules.attention_masks import packing_index
from ..corpus.arrays import Ints
from ..corpus.sized_dataset import SizedDataset, TokenRows, no_batch
from .cutting import DialogLimits, cut_prefix
from .line_format import RESPONSE, describe_prefix
from .sizes import measure_dialogs

logger = logging.getLogger(__name__)


class DialogSample(TypedDict):
    """One dialog of a :class:`DialogDataset`; T is the number of input tokens."""

    id: int
    tokens: Tensor  # int64 [T + 1], <s> to </s>
    segments: Tensor  # int64 [T]
    positions: Tensor  # int64 [T]
    prefix: int  # number of input tokens before the response, including <s> and <SEP>
    response: int  # number of input tokens of the response, without </s>
    context: NotRequired[Tensor]  # int64 [S'], <s> to <SEP> before truncation; if it is kept


class PrefixSample(TypedDict):
    """One prefix of a :class:`DialogPrefixDataset`."""

    id: int
    tokens: Tensor  # int64 [S], <s> to <SEP>
    segments: Tensor  # int64 [S]
    positions: Tensor  # int64 [S]
    context: Tensor  # int64 [S'], <s> to <SEP> before truncation


class Echo(NamedTuple):
    """A share of the dialogs that have their query as their response."""

    share: float  # probability of each dialog in each epoch, 0 to 1
    seed: int  # with the epoch, it determines the draws


class DialogDataset(SizedDataset):
    """A dataset of dialogs: ``<s> context <CTX> query <SEP> response </s>``.

    A batch is one packed row without padding. Inside attention, prefixes are padded to the
    longest prefix and responses to the longest response; batches are composed so that this
    padding is small (``padded_tokens``).

    Args:
        tokens: lines, each ending with ``</s>``; read lazily.
        dictionary: fairseq's dictionary with ``<CTX>`` and ``<SEP>``.
        ctx, sep: ids of ``<CTX>`` and ``<SEP>``.
        limits: maximum lengths of a dialog.
        token_bytes: UTF-8 bytes that each dictionary entry stands for, [V].
        shuffle: shuffle dialogs of equal lengths, and the batches, in every epoch.
        reverse: swap the sides, to learn the query from the response: ``response <SEP> query``.
        echo: replace the responses of some dialogs, drawn anew in every epoch, by their queries.

    Attributes:
        indices: indices of the usable lines, int64.
        prefix_sizes: tokens of each line's prefix after truncation, including ``<s>``; int32.
        response_sizes: targets of each line after truncation, including ``</s>``; int32.
        faults: number of unusable lines by kind.
        num_cut: number of usable lines that are truncated.
        keeps_context: batches also have the prefixes before truncation, for decoding; False.
    """

    def __init__(
        self,
        tokens: TokenRows,
        dictionary: Dictionary,
        ctx: int,
        sep: int,
        limits: DialogLimits,
        token_bytes: Tensor,
        shuffle: bool = True,
        reverse: bool = False,
        echo: Echo | None = None,
    ) -> None:
        self.tokens = tokens
        self.dictionary = dictionary
        self.ctx, self.sep = ctx, sep
        self.limits = limits
        self.token_bytes = token_bytes
        self.shuffle = shuffle
        self.reverse = reverse
        self.echo = echo
        self.keeps_context = False
        sizes = measure_dialogs(tokens, ctx, sep, limits, reverse)
        self.prefix_sizes, self._own_sizes, self._query_sizes = sizes[:3]
        self.indices, self.faults, self.num_cut = sizes.indices, sizes.faults, sizes.num_cut
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Draw the dialogs of ``echo``, which depend on nothing but the epoch and the seed."""
        self.epoch = epoch
        if self.echo is None:
            self.echoed, self.response_sizes = None, self._own_sizes
        else:
            draws = np.random.default_rng([self.echo.seed % 2**32, epoch]).random(
                len(self._own_sizes)
            )
            self.echoed = draws < self.echo.share
            echoes = np.minimum(self._query_sizes + 1, self.limits.max_target_positions)
            self.response_sizes = np.where(self.echoed, echoes, self._own_sizes)
        self.sizes = self.prefix_sizes + self.response_sizes - 1  # input tokens

    def num_tokens_vec(self, indices: Ints) -> npt.NDArray[np.int64]:
        """Return the number of tokens of several rows as int64, as fairseq's Cython code needs."""
        return self.sizes[indices].astype(np.int64)

    def _sides(self, line: Ints) -> tuple[Ints, Ints]:
        """Split a line into prefix (with ``<SEP>``) and response (with ``</s>``), in full."""
        mark = int(np.flatnonzero(line == self.sep)[0])
        prefix, response = line[: mark + 1], line[mark + 1 :]
        if not self.reverse:
            return prefix, response
        turns = np.flatnonzero(prefix == self.ctx)
        query = prefix[turns[-1] + 1 if len(turns) else 0 : -1]
        eos, sep = response[-1:], prefix[-1:]
        return np.concatenate([response[:-1], sep]), np.concatenate([query, eos])

    def __getitem__(self, index: int) -> DialogSample:
        prefix, response = self._sides(self.tokens[index].numpy())
        whole_prefix = prefix
        # Truncate to the length that measure_dialogs has computed.
        prefix = prefix[len(prefix) + 1 - self.prefix_sizes[index] :]
        if self.echoed is not None and self.echoed[index]:
            query = prefix[len(prefix) - 1 - self._query_sizes[index] : -1]
            response = np.append(query, response[-1])  # with </s>
        response = response[: self.limits.max_target_positions]
        segments, positions = describe_prefix(prefix, self.ctx)
        inputs = len(response) - 1
        whole = np.concatenate([[self.dictionary.bos()], prefix, response]).astype(np.int64)
        sample: DialogSample = {
            "id": index,
            "tokens": torch.from_numpy(whole),
            "segments": torch.from_numpy(np.append(segments, np.full(inputs, RESPONSE))),
            "positions": torch.from_numpy(np.append(positions, np.arange(inputs))),
            "prefix": len(prefix) + 1,
            "response": inputs,
        }
        if self.keeps_context:
            sample["context"] = _with_bos(whole_prefix, self.dictionary)
        return sample

    def ordered_indices(self) -> Ints:
        """Return the usable lines sorted by both lengths, shuffled among equal lengths.

        The lines are sorted by prefix length in steps of a few tokens and, within a step, by
        response length, ascending in one step and descending in the next. Neighbours are
        therefore similar in both lengths.
        """
        order = np.random.permutation(self.indices) if self.shuffle else self.indices
        prefix, response = self.prefix_sizes[order], self.response_sizes[order]
        step = prefix // _prefix_step(len(order))
        snake = np.where(step % 2 == 0, response, -response)
        return order[np.lexsort([prefix, snake, step])]

    def batch_by_size(
        self,
        indices: Ints,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[Ints]:
        """Split the indices into batches of at most ``max_tokens`` tokens, including padding."""
        batches, start = [], 0
        # Lists are faster here: a loop over an array creates an object for every element.
        prefixes = self.prefix_sizes[indices].tolist()
        responses = (self.response_sizes[indices] - 1).tolist()
        longest_prefix = longest_response = 0
        for i, (prefix, response) in enumerate(zip(prefixes, responses)):
            if prefix > longest_prefix:
                longest_prefix = prefix
            if response > longest_response:
                longest_response = response
            cells = (longest_prefix + longest_response) * (i + 1 - start)
            full = max_tokens is not None and cells > max_tokens
            if i > start and (full or i - start == max_sentences):
                batches.append(indices[start:i])
                start, longest_prefix, longest_response = i, prefix, response
        if start < len(indices):
            batches.append(indices[start:])
        return batches

    def filter_indices_by_size(self, indices: Ints, max_sizes: object) -> tuple[Ints, list[int]]:
        """Return all rows: rows are truncated when they are read, so none is too long."""
        return indices, []

    def collater(self, samples: list[DialogSample]) -> DialogBatch:
        """Merge dialogs into one packed row."""
        if not samples:
            return no_batch()
        prefix = torch.tensor([s["prefix"] for s in samples])
        response = torch.tensor([s["response"] for s in samples])
        lengths = prefix + response
        pad_index, unpad_index = packing_index(lengths)
        targets = torch.cat([s["tokens"][1:] for s in samples])
        place = torch.cat([torch.arange(n) for n in lengths])
        mask = place >= (prefix - 1).repeat_interleave(lengths)
        longest = (int(prefix.max()), int(response.max()))
        net_input: RowInput = {
            "src_tokens": torch.cat([s["tokens"][:-1] for s in samples]).unsqueeze(0),
            "src_lengths": lengths.sum().view(1),
            "positions": torch.cat([s["positions"] for s in samples]).unsqueeze(0),
            "segments": torch.cat([s["segments"] for s in samples]).unsqueeze(0),
            "packing": {"pad_index": pad_index, "unpad_index": unpad_index},
            "sides": {
                "prefix_lengths": prefix,
                "response_lengths": response,
                "longest": longest,
            },
        }
        batch: DialogBatch = {
            "id": torch.tensor([s["id"] for s in samples]),
            "nsentences": len(samples),
            "ntokens": len(targets),
            "real_tokens": len(targets),
            "nbytes": round(float(self.token_bytes[targets].sum())),
            "response_ntokens": int(mask.sum()),
            "response_nbytes": round(float(self.token_bytes[targets[mask]].sum())),
            "padded_tokens": len(samples) * sum(longest),
            "net_input": net_input,
            "target": targets.unsqueeze(0),
            "response_mask": mask.unsqueeze(0),
            "sample_index": torch.arange(len(samples)).repeat_interleave(lengths).unsqueeze(0),
        }
        if self.keeps_context:
            contexts = [s["context"] for s in samples]
            batch["context_tokens"] = collate_tokens(contexts, self.dictionary.pad())
        return batch


def _with_bos(prefix: Ints, dictionary: Dictionary) -> Tensor:
    return torch.from_numpy(np.append([dictionary.bos()], prefix).astype(np.int64))


def _prefix_step(count: int) -> int:
    """Return how many prefix lengths form a step; small data sets need wider steps."""
    return 2 if count > 20_000 else 4


class DialogPrefixDataset(SizedDataset):
    """A dataset of prefixes whose responses are to be generated.

    Args:
        prefixes: int arrays that end with ``<SEP>``, before truncation.
        dictionary, ctx, limits: as in :class:`DialogDataset`.

    Attributes:
        collated: ids of the prefixes in the last batch (valid without worker processes).
    """

    def __init__(
        self, prefixes: Iterable[Ints], dictionary: Dictionary, ctx: int, limits: DialogLimits
    ) -> None:
        self.collated: list[int] = []
        self.dictionary = dictionary
        self.ctx = ctx
        self.contexts = [np.asarray(prefix) for prefix in prefixes]  # before truncation
        self.prefixes = [cut_prefix(context, ctx, limits) for context in self.contexts]
        self.sizes = np.array([len(p) + 1 for p in self.prefixes])

    def __getitem__(self, index: int) -> PrefixSample:
        prefix = self.prefixes[index]
        segments, positions = describe_prefix(prefix, self.ctx)
        return {
            "id": index,
            "tokens": _with_bos(prefix, self.dictionary),
            "segments": torch.from_numpy(segments),
            "positions": torch.from_numpy(positions),
            "context": _with_bos(self.contexts[index], self.dictionary),
        }

    def ordered_indices(self) -> Ints:
        """Return the indices of the prefixes in order of length."""
        return np.argsort(self.sizes, kind="stable")

    def filter_indices_by_size(self, indices: Ints, max_sizes: object) -> tuple[Ints, list[int]]:
        """Return all prefixes: prefixes are truncated, so none is too long."""
        return indices, []

    def collater(self, samples: list[PrefixSample]) -> Batch:
        """Merge prefixes into a batch with padding on the right."""
        if not samples:
            return no_batch()
        self.collated = [s["id"] for s in samples]
        lengths = torch.tensor([len(s["tokens"]) for s in samples])
        pad = self.dictionary.pad()
        net_input: PrefixInput = {
            "src_tokens": collate_tokens([s["tokens"] for s in samples], pad),
            "src_lengths": lengths,
            "positions": collate_tokens([s["positions"] for s in samples], 0),
            "segments": collate_tokens([s["segments"] for s in samples], 0),
            "context_tokens": collate_tokens([s["context"] for s in samples], pad),
        }
        return {
            "id": torch.tensor([s["id"] for s in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
            "net_input": net_input,
            "target": None,
        }


def report_dialog_dataset(split: str, dataset: DialogDataset) -> None:
    """Log the size of a split and how many lines are left out or truncated.

    Raises:
        UserError: the split holds no usable dialog.
    """
    left_out = ", ".join(f"{n} {what}" for what, n in dataset.faults.items() if n) or "none"
    kept = dataset.indices
    logger.info(
        "%s: %d dialogs, %d prefix and %d response tokens; lines left out: %s; cut: %d",
        split,
        len(kept),
        int(dataset.prefix_sizes[kept].sum()),
        int(dataset.response_sizes[kept].sum()),
        left_out,
        dataset.num_cut,
    )
    if len(kept) == 0:
        raise UserError(f"split {split} holds no dialog; lines left out: {left_out}")

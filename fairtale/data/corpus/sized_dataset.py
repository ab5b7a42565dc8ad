"""The base class of the datasets of stories and dialogs."""

from typing import Any, Protocol

from fairseq.data import FairseqDataset
from torch import Tensor

from .arrays import Ints


class TokenRows(Protocol):
    """Rows of tokens, read lazily: an indexed dataset of fairseq, or a list of tensors."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Return one row, an integer tensor [tokens]."""
        ...


def no_batch() -> Any:
    """Return the empty batch that fairseq expects of a worker without data: an empty dict."""
    return {}


class SizedDataset(FairseqDataset):
    """A dataset with an array ``sizes``: the number of tokens of each row, int [rows]."""

    sizes: Ints

    def __len__(self) -> int:
        return len(self.sizes)

    def num_tokens(self, index: int) -> int:
        """Return the number of tokens of a row."""
        return int(self.sizes[index])

    def num_tokens_vec(self, indices: Ints) -> Ints:
        """Return the number of tokens of each of several rows, int [len(indices)]."""
        return self.sizes[indices]

    def size(self, index: int) -> int:
        """Return the length of a row, which fairseq compares with a model's positions."""
        return int(self.sizes[index])

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Return False: every epoch has new batches, not the same batches in another order."""
        return False

    @property
    def supports_prefetch(self) -> bool:
        """Return False: rows are memory-mapped and read one by one."""
        return False

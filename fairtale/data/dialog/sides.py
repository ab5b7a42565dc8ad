"""One side of the dialogs of a dataset, in the form that fairseq's LanguagePairDataset needs."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .dataset import DialogDataset


class DialogSide(Dataset[Tensor]):
    """A dataset of the prefixes or the responses of dialogs, int64 [n], each ``<s> ... </s>``.

    Args:
        dialogs: the dialogs; unusable lines are skipped.
        response: return the responses instead of the prefixes.
    """

    def __init__(self, dialogs: DialogDataset, response: bool) -> None:
        self.dialogs = dialogs
        self.response = response
        sizes: Any = dialogs.response_sizes if response else dialogs.prefix_sizes
        self.sizes = sizes[dialogs.indices] + 1  # a prefix gains </s>, a response gains <s>

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        dialog = self.dialogs[self.dialogs.indices[index]]
        tokens: Tensor = dialog["tokens"]
        prefix = dialog["prefix"]
        dictionary = self.dialogs.dictionary
        if self.response:
            return torch.cat([tokens.new_tensor([dictionary.bos()]), tokens[prefix:]])
        return torch.cat([tokens[:prefix], tokens.new_tensor([dictionary.eos()])])

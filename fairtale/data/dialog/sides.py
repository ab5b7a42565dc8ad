"""One side of dialogs, as fairseq's datasets of pairs take it."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .dataset import DialogDataset


class DialogSide(Dataset[Tensor]):
    """The prefixes or the responses of dialogs, int64 [n], each with both marks.

    Args:
        dialogs: usable dialogs only are read.
        response: whether these are the responses.
    """

    def __init__(self, dialogs: DialogDataset, response: bool) -> None:
        self.dialogs = dialogs
        self.response = response
        sizes: Any = dialogs.response_sizes if response else dialogs.prefix_sizes
        self.sizes = sizes[dialogs.indices] + 1  # the begin mark of one, the end of the other

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

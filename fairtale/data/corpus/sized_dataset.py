"""What the datasets of lines in memory-mapped files have in common."""

import torch
from fairseq.data import FairseqDataset


def pad_rows(rows, pad, length=None):
    """Stack 1-D int64 tensors into [B, T], padded at the right."""
    out = torch.full((len(rows), length or max(map(len, rows))), pad, dtype=torch.long)
    for target, row in zip(out, rows):
        target[: len(row)] = row
    return out


class SizedDataset(FairseqDataset):
    """A dataset with an array ``sizes``: tokens of each row, int64 [rows]."""

    def __len__(self):
        return len(self.sizes)

    def num_tokens(self, index):
        return int(self.sizes[index])

    def num_tokens_vec(self, indices):
        return self.sizes[indices]

    def size(self, index):
        return int(self.sizes[index])

    @property
    def can_reuse_epoch_itr_across_epochs(self):
        return False  # other batches every epoch, not the same ones in another order

    @property
    def supports_prefetch(self):
        return False

"""What the datasets of lines in memory-mapped files have in common."""

from fairseq.data import FairseqDataset


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

"""``dialog_nat``: replies that are not written from left to right, to compare with."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from fairseq.data import LanguagePairDataset
from fairseq.tasks import FairseqTask, register_task
from fairseq.tasks.translation_lev import NOISE_CHOICES, TranslationLevenshteinTask
from torch.utils.data import Dataset

from fairtale.data.dialog.cutting import cut_prefix
from fairtale.errors import UserError
from fairtale.tasks.dialog import DialogDataConfig, DialogTask


@dataclass
class DialogNATConfig(DialogDataConfig):
    noise: NOISE_CHOICES = field(
        default="random_delete",
        metadata={"help": "what training hides of a reply; insertion_transformer: random_delete"},
    )


class _Side(Dataset):
    """The prefixes or the responses of dialogs, as fairseq's pair datasets take them."""

    def __init__(self, dialogs, response: bool):
        self.dialogs = dialogs
        self.response = response
        sizes = dialogs.response_sizes if response else dialogs.prefix_sizes
        self.sizes = sizes[dialogs.indices] + 1  # the begin mark of one, the end of the other

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        dialog = self.dialogs[self.dialogs.indices[index]]
        tokens, prefix = dialog["tokens"], dialog["prefix"]
        dictionary = self.dialogs.dictionary
        if self.response:
            return torch.cat([tokens.new_tensor([dictionary.bos()]), tokens[prefix:]])
        return torch.cat([tokens[:prefix], tokens.new_tensor([dictionary.eos()])])


@register_task("dialog_nat", dataclass=DialogNATConfig)
class DialogNATTask(DialogTask):
    """Dialogs for fairseq's non-autoregressive models, from the same data as ``dialog_lm``.

    ``--arch insertion_transformer --criterion nat_loss`` trains Stern et al.'s (2019) model:
    the encoder reads the prefix, the decoder inserts tokens everywhere at once.
    ``--iter-decode-max-iter`` bounds the rounds of decoding, and so the length of replies:
    ``--max-len-b`` does not.
    """

    @property
    def src_dict(self):
        return self.dictionary

    @property
    def tgt_dict(self):
        return self.dictionary

    def build_model(self, cfg, from_checkpoint=False):
        """Build one of fairseq's models; positions are given to it by its own options."""
        for name, needed in (
            ("max_source_positions", self.limits.max_source_positions + 1),
            ("max_target_positions", self.limits.max_target_positions + 1),
        ):
            if not from_checkpoint and getattr(cfg, name, None) is not None:
                setattr(cfg, name, max(getattr(cfg, name), needed))
        return FairseqTask.build_model(self, cfg, from_checkpoint)

    def max_positions(self):
        return self.limits.max_source_positions + 1, self.limits.max_target_positions + 1

    def load_dataset(self, split, combine=False, **kwargs):
        """Load a split of every data folder that has it."""
        dialogs = self.load_dialogs(split, combine)
        source, target = _Side(dialogs, response=False), _Side(dialogs, response=True)
        self.datasets[split] = LanguagePairDataset(
            source,
            source.sizes,
            self.dictionary,
            target,
            target.sizes,
            self.dictionary,
            left_pad_source=False,
            shuffle=split == "train",
        )

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None, **kwargs):
        """Make prefixes of encoded dialogs (``fairseq-interactive``)."""
        begin, end = (torch.tensor([i]) for i in (self.dictionary.bos(), self.dictionary.eos()))
        rows = []
        for tokens in src_tokens:
            prefix = torch.from_numpy(cut_prefix(tokens[:-1].numpy(), self.ctx, self.limits))
            rows.append(torch.cat([begin, prefix, end]))
        sizes = np.array([len(row) for row in rows])
        return LanguagePairDataset(rows, sizes, self.dictionary, left_pad_source=False)

    def _noise(self, target):
        # fairseq's task keeps its noise in a method; it needs no more of a task than this
        task = SimpleNamespace(cfg=self.cfg, tgt_dict=self.dictionary)
        return TranslationLevenshteinTask.inject_noise(task, target)

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        sample = {**sample, "prev_target": self._noise(sample["target"])}
        return FairseqTask.train_step(
            self, sample, model, criterion, optimizer, update_num, ignore_grad
        )

    def valid_step(self, sample, model, criterion):
        sample = {**sample, "prev_target": self._noise(sample["target"])}
        return FairseqTask.valid_step(self, sample, model, criterion)

    def build_generator(self, models, args, **unused):
        """Build fairseq's iterative generator.

        Raises:
            UserError: options of left-to-right search, which would do nothing here.
        """
        for name, default in (
            ("sampling", False),
            ("no_repeat_ngram_size", 0),
            ("temperature", 1.0),
            ("min_len", 1),
        ):
            if getattr(args, name, default) != default:
                raise UserError(
                    f"--{name.replace('_', '-')}: a reply that is not written from left to right "
                    "has no next token to choose; leave it out"
                )
        if getattr(args, "nbest", 1) != 1:
            raise UserError(f"--nbest {args.nbest}: this model writes one reply; leave it out")
        return TranslationLevenshteinTask.build_generator(self, models, args)

    def _writes_samples(self):
        return False  # they are for models that continue prompts

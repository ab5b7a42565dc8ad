"""``story_lm``: learn to write stories, one a line, and to continue their beginnings."""

import logging
import os
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq import utils
from fairseq.data import ConcatDataset, Dictionary, data_utils, encoders
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, open_dict

from ..compat import refuse_empty_evaluation
from ..data.story_dataset import PromptDataset, StoryDataset, report_story_dataset
from ..data.vocabulary import find_tokenizer, fingerprint, token_bytes
from ..errors import UserError
from ..generation.prefix_generator import PrefixGenerator, check_generation_options
from ..generation.sample_log import SampleWriter, sample_continuations

logger = logging.getLogger(__name__)

DEFAULT_TOKENS_PER_SAMPLE = 256


@dataclass
class StoryLMConfig(FairseqDataclass):
    data: Optional[str] = field(
        default=None,
        metadata={"help": "folder made by fairseq-preprocess; several, joined by ':', are one set"},
    )
    tokens_per_sample: Optional[int] = field(
        default=None,
        metadata={
            "help": "stories are cut to this many tokens "
            f"(default: what the checkpoint was trained with, else {DEFAULT_TOKENS_PER_SAMPLE})"
        },
    )
    pack: bool = field(
        default=False,
        metadata={
            "help": "put the stories of a batch into one row without any padding; "
            "attention does not cross stories"
        },
    )
    prompt_tokens: int = field(
        default=0,
        metadata={
            "help": "fairseq-generate: the first N tokens of each story are its prompt, "
            "the rest its reference (0: write whole stories)"
        },
    )
    sample_prompts: Optional[str] = field(
        default=None,
        metadata={
            "help": "at each validation continue these beginnings, separated by '|', "
            'and write them to the log and to TensorBoard: "Once upon a time|One day"'
        },
    )
    sample_length: int = field(
        default=100, metadata={"help": "most tokens of such a continuation"}
    )
    sample_topk: int = field(default=10, metadata={"help": "top-k of such a continuation"})
    sample_temperature: float = field(
        default=1.0, metadata={"help": "temperature of such a continuation; divides the logits"}
    )
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_task("story_lm", dataclass=StoryLMConfig)
class StoryLMTask(FairseqTask):
    """Language modelling of stories with prompts.

    The tokenizer is the ``sentencepiece.bpe.model`` beside the data unless ``--bpe`` names
    another; the checkpoint remembers the length of the rows and the dictionary.

    Raises:
        UserError: dictionaries of several data folders differ, or none is found.
    """

    def __init__(self, cfg: StoryLMConfig, dictionary: Dictionary):
        super().__init__(cfg)
        self.dictionary = dictionary
        self._tokens_per_sample = cfg.tokens_per_sample
        self._bpe = None
        self._writer = None
        if cfg.tokens_per_sample is not None and cfg.tokens_per_sample < 2:
            raise UserError(f"--tokens-per-sample {cfg.tokens_per_sample}: must be at least 2")
        if cfg.prompt_tokens < 0:
            raise UserError(f"--prompt-tokens {cfg.prompt_tokens}: must not be negative")

    @classmethod
    def setup_task(cls, cfg: StoryLMConfig, **kwargs):
        """Load the dictionary of the data."""
        if not cfg.data:
            raise UserError("no data folder given: name one that fairseq-preprocess has made")
        dictionaries = []
        for path in utils.split_paths(cfg.data):
            name = os.path.join(path, "dict.txt")
            if not os.path.isfile(name):
                raise UserError(
                    f"{name} does not exist: make the folder with fairseq-preprocess --only-source"
                )
            dictionaries.append(Dictionary.load(name))
            if dictionaries[-1] != dictionaries[0]:
                raise UserError(f"{name} differs from the first folder's dict.txt: use one for all")
        logger.info("dictionary: %d types", len(dictionaries[0]))
        return cls(cfg, dictionaries[0])

    # ------------------------------------------------------------------ what is remembered

    @property
    def tokens_per_sample(self) -> int:
        return self._tokens_per_sample or DEFAULT_TOKENS_PER_SAMPLE

    def state_dict(self):
        """What generation needs to know, kept in the checkpoint."""
        return {
            "tokens_per_sample": self.tokens_per_sample,
            "dictionary": fingerprint(self.dictionary),
        }

    def load_state_dict(self, state_dict):
        """Take over what the checkpoint remembers, where no option says otherwise.

        Raises:
            UserError: it was trained with another dictionary.
        """
        known = state_dict.get("dictionary")
        if known is not None and known != fingerprint(self.dictionary):
            raise UserError(
                f"the checkpoint was trained with another dictionary than {self.cfg.data}/dict.txt "
                f"({len(self.dictionary)} entries): use the data folder it was trained on"
            )
        if self._tokens_per_sample is None:
            self._tokens_per_sample = state_dict.get("tokens_per_sample")

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model; a new one gets as many positions as a row has tokens."""
        if not from_checkpoint and getattr(cfg, "max_target_positions", 0) is None:
            with open_dict(cfg) if not isinstance(cfg, Namespace) else _nothing():
                cfg.max_target_positions = self.tokens_per_sample
        model = super().build_model(cfg, from_checkpoint)
        positions = model.max_positions()
        if positions is not None and positions < self.tokens_per_sample:
            raise UserError(
                f"--tokens-per-sample {self.tokens_per_sample} is more than the model's "
                f"{positions} positions: lower it"
            )
        return model

    # ------------------------------------------------------------------------------- data

    def has_sharded_data(self, split):
        return False  # several folders are one set, not one for each epoch

    def load_dataset(self, split, combine=False, **kwargs):
        """Load a split of every data folder that has it."""
        parts = []
        for path in utils.split_paths(self.cfg.data):
            part = data_utils.load_indexed_dataset(
                os.path.join(path, split), self.dictionary, combine=combine
            )
            if part is not None:
                parts.append(part)
        if not parts:
            raise UserError(f"split {split} not found in {self.cfg.data}: run prepare.sh again?")
        tokens = parts[0] if len(parts) == 1 else ConcatDataset(parts)
        self.datasets[split] = StoryDataset(
            tokens,
            tokens.sizes,
            self.dictionary,
            self.tokens_per_sample,
            token_bytes(self.dictionary),
            shuffle=split == "train",
            pack=self.cfg.pack,
        )
        report_story_dataset(split, self.datasets[split])

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None, **kwargs):
        """Make prompts of encoded lines (``fairseq-interactive``)."""
        return PromptDataset(src_tokens, self.dictionary)

    def filter_indices_by_size(
        self, indices, dataset, max_positions=None, ignore_invalid_inputs=False
    ):
        """Leave out what is too long: with a count if asked to, else with an error."""
        if not isinstance(dataset, PromptDataset):
            return super().filter_indices_by_size(
                indices, dataset, max_positions, ignore_invalid_inputs
            )
        # the begin mark counts, and one position must be left to continue from
        fits = dataset.sizes[indices] < max_positions
        if not fits.all() and not ignore_invalid_inputs:
            worst = indices[~fits][0]
            raise UserError(
                f"prompt {worst + 1} has {dataset.sizes[worst] - 1} tokens, the model has room for "
                f"{max_positions - 2}: shorten it, or give --skip-invalid-size-inputs-valid-test"
            )
        if not fits.all():
            logger.warning("%d prompts are too long and left out", int((~fits).sum()))
        return indices[fits]

    def eval_lm_dataloader(
        self,
        dataset,
        max_tokens=36000,
        batch_size=None,
        max_positions=None,
        num_shards=1,
        shard_id=0,
        num_workers=1,
        data_buffer_size=10,
        context_window=0,
    ):
        """Batches for ``fairseq-eval-lm``: every story is scored from its beginning."""
        if context_window > 0:
            raise UserError(
                f"--context-window {context_window}: stories are scored whole, nothing stands "
                "before them: leave it out"
            )
        batches = self.get_batch_iterator(
            dataset,
            max_tokens,
            batch_size,
            max_positions,
            ignore_invalid_inputs=True,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            data_buffer_size=data_buffer_size,
        ).next_epoch_itr(shuffle=False)
        return refuse_empty_evaluation(batches, len(dataset))

    # ------------------------------------------------------------------------- generation

    def build_bpe(self, args):
        """Build the tokenizer that ``--bpe`` names, else the one beside the data."""
        if getattr(args, "_name", None) is not None or getattr(args, "bpe", None):
            return super().build_bpe(args)
        model = find_tokenizer(utils.split_paths(self.cfg.data))
        if model is None:
            return None
        logger.info("tokenizer: %s", model)
        return encoders.build_bpe(Namespace(bpe="sentencepiece", sentencepiece_model=model))

    def build_generator(self, models, args, **kwargs):
        """Build fairseq's generator for prefixes (or its scorer, with ``--score-reference``)."""
        check_generation_options(args)
        kwargs.setdefault("seq_gen_cls", PrefixGenerator)
        if not getattr(args, "match_source_len", False):
            return super().build_generator(models, args, **kwargs)
        raise UserError("--match-source-len: a continuation has no source to match")

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Continue the prompts of a batch; a batch of stories is cut into prompts first."""
        if sample.get("target") is not None and isinstance(generator, PrefixGenerator):
            prefix_tokens = self._cut_prompts(sample, prefix_tokens)
        return super().inference_step(generator, models, sample, prefix_tokens, constraints)

    def _cut_prompts(self, sample, prefix_tokens):
        """Make prompts of stories, in place: what is printed is what was used."""
        net_input, target, pad = sample["net_input"], sample["target"], self.dictionary.pad()
        if "pad_index" in net_input:
            raise UserError("--pack is for training: leave it out to generate")
        count = min(self.cfg.prompt_tokens, target.size(1) - 1)
        real = target.ne(pad).sum(1)
        prompt = torch.clamp(real - 1, max=count)  # every story keeps its end as reference
        place = torch.arange(count + 1, device=target.device)
        source = net_input["src_tokens"][:, : count + 1]
        net_input["src_tokens"] = source.masked_fill(place > prompt.unsqueeze(1), pad)
        net_input["src_lengths"] = prompt + 1  # the begin mark
        rest = torch.arange(target.size(1), device=target.device) + prompt.unsqueeze(1)
        shifted = target.gather(1, rest.clamp(max=target.size(1) - 1))
        sample["target"] = shifted.masked_fill(rest >= real.unsqueeze(1), pad)
        if prefix_tokens is None:
            return None
        return sample["target"][:, : prefix_tokens.size(1)]

    def encode_prompt(self, text: str) -> torch.Tensor:
        """Return the tokens of a text, with ``</s>``."""
        self._bpe = self._bpe or self.build_bpe(Namespace(bpe=None))
        pieces = text if self._bpe is None else self._bpe.encode(text)
        return self.dictionary.encode_line(pieces, add_if_not_exist=False).long()

    def decode_tokens(self, tokens: torch.Tensor) -> str:
        """Return the text of generated tokens."""
        pieces = self.dictionary.string(tokens.int().cpu())
        if self._bpe is None:
            return pieces
        # a continuation that begins a new word keeps the space before it
        space = " " if pieces.startswith("\u2581") else ""
        return space + self._bpe.decode(pieces)

    # ------------------------------------------------------------------------- validation

    def post_validate(self, model, stats, agg):
        """Write continuations of ``--sample-prompts``, on the first worker."""
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        if not self.cfg.sample_prompts or not first:
            return
        prompts = [p for p in self.cfg.sample_prompts.split("|") if p.strip()]
        texts, speed = sample_continuations(
            self,
            model,
            prompts,
            self.cfg.sample_length,
            self.cfg.sample_topk,
            self.cfg.sample_temperature,
        )
        if self._writer is None:
            self._writer = SampleWriter(self.cfg.tensorboard_logdir)
        self._writer.write(prompts, texts, stats["num_updates"], speed)
        stats["sample_tok_s"] = round(speed)

    def max_positions(self):
        return self.tokens_per_sample

    @property
    def source_dictionary(self):
        return self.dictionary

    @property
    def target_dictionary(self):
        return self.dictionary


class _nothing:  # noqa: N801
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False

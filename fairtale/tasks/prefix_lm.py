"""What the tasks of prefix language models share. (fairseq skips files that begin with _.)"""

import logging
import os
from argparse import Namespace
from contextlib import nullcontext

import torch
from fairseq import utils
from fairseq.data import ConcatDataset, Dictionary
from fairseq.tasks import FairseqTask
from omegaconf import open_dict

from ..compat.evaluation import refuse_empty_evaluation
from ..data.corpus.binarized import load_binarized
from ..data.corpus.vocabulary import find_tokenizer, fingerprint
from ..errors import UserError
from ..generation.prefix_generator import PrefixGenerator, check_generation_options
from ..generation.sample_log import SampleWriter, sample_continuations
from .text import build_pieces, check_utf8, is_first_worker, load_dictionary

logger = logging.getLogger(__name__)


class PrefixLMTask(FairseqTask):
    """Dictionary, tokenizer, checkpoint memory, generation and samples of a prefix model.

    The tokenizer is the ``sentencepiece.bpe.model`` beside the data unless ``--bpe`` names
    another. Options named in ``remembered`` default to what the checkpoint was trained with.
    """

    remembered: dict = {}  # option -> default where neither user nor checkpoint says
    shares_positions = False  # --max-target-positions is also an option of the task

    def __init__(self, cfg, dictionary: Dictionary):
        super().__init__(cfg)
        self.dictionary = dictionary
        self._options = {name: getattr(cfg, name) for name in self.remembered}
        self._bpe = None
        self._writer = None
        self._tried_samples = False
        self._lines_read = self.lines_before = 0  # of fairseq-interactive's input

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """Load the dictionary of the data.

        Raises:
            UserError: dictionaries of several data folders differ, or none is found.
        """
        if not cfg.data:
            raise UserError("no data folder given: name one that fairseq-preprocess has made")
        paths = utils.split_paths(cfg.data)
        dictionary = load_dictionary(paths, "dict.txt", "fairseq-preprocess --only-source")
        logger.info("dictionary: %d types", len(dictionary))
        return cls(cfg, dictionary)

    # ------------------------------------------------------------------ what is remembered

    def option(self, name):
        """Return an option: the user's, else the checkpoint's, else the default."""
        value = self._options[name]
        return self.remembered[name] if value is None else value

    def state_dict(self):
        """What generation needs to know, kept in the checkpoint."""
        state = {name: self.option(name) for name in self.remembered}
        return {**state, "dictionary": fingerprint(self.dictionary)}

    def load_state_dict(self, state_dict):
        """Take over what the checkpoint remembers, where no option says otherwise.

        Raises:
            UserError: it was trained with another dictionary.
        """
        self.check_checkpoint(state_dict)
        for name in self.remembered:
            if self._options[name] is None:
                self._options[name] = state_dict.get(name)

    def check_checkpoint(self, state_dict):
        """Refuse a checkpoint of another dictionary; also called before training goes on."""
        known = state_dict.get("dictionary")
        if known is not None and known != fingerprint(self.dictionary):
            raise UserError(
                f"the checkpoint was trained with another dictionary than {self.cfg.data}/dict.txt "
                f"({len(self.dictionary)} entries): use the data folder it was trained on"
            )

    def check_resumed(self, state_dict):
        """Refuse to go on otherwise than training began only because an option was left out.

        Raises:
            UserError: an option that is not given was given before, or had another default.
        """
        for name in self.remembered:
            before, now = state_dict.get(name), self.option(name)
            if before is None or before == now:
                continue
            option = f"--{name.replace('_', '-')}"
            given = getattr(self.cfg, name)
            if given is None or given is False:
                again = option if before is True else f"{option} {before}"
                raise UserError(
                    f"training began with {again}, and would go on with {now}: give {again} again, "
                    "or start anew in another --save-dir"
                )
            logger.warning("training began with %s %s and goes on with %s", option, before, now)

    @property
    def needed_positions(self) -> int:
        """How many positions a new model gets."""
        raise NotImplementedError

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model; a new one gets the positions that the task's rows need.

        Raises:
            UserError: a checkpoint has fewer.
        """
        given = getattr(cfg, "max_target_positions", 0)
        if not from_checkpoint and (given is None or (given and self.shares_positions)):
            with nullcontext() if isinstance(cfg, Namespace) else open_dict(cfg):
                cfg.max_target_positions = max(given or 0, self.needed_positions)
        model = super().build_model(cfg, from_checkpoint)
        positions = model.max_positions()
        if isinstance(positions, int) and positions < self.needed_positions:
            raise UserError(
                f"rows of {self.needed_positions} positions are more than the model's "
                f"{positions}: lower {self.positions_options}"
            )
        return model

    # ------------------------------------------------------------------------------- data

    def has_sharded_data(self, split):
        return False  # several folders are one set, not one for each epoch

    def load_lines(self, split, combine=False):
        """Return the indexed dataset of a split, of all data folders that have it.

        Raises:
            UserError: none has it, or it is damaged.
        """
        parts = []
        for path in utils.split_paths(self.cfg.data):
            part = load_binarized(os.path.join(path, split), self.dictionary, combine)
            if part is not None:
                parts.append(part)
        if not parts:
            raise UserError(f"split {split} not found in {self.cfg.data}: run prepare.sh again?")
        return parts[0] if len(parts) == 1 else ConcatDataset(parts)

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
        """Batches for ``fairseq-eval-lm``: every row is scored from its beginning."""
        if context_window > 0:
            raise UserError(
                f"--context-window {context_window}: rows are scored whole, nothing stands "
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
        return build_pieces(args, find_tokenizer(utils.split_paths(self.cfg.data)))

    def build_generator(self, models, args, **kwargs):
        """Build fairseq's generator for prefixes (or its scorer, with ``--score-reference``)."""
        check_generation_options(args)
        if getattr(args, "match_source_len", False):
            raise UserError("--match-source-len: a continuation has no source to match")
        kwargs.setdefault("seq_gen_cls", PrefixGenerator)
        return super().build_generator(models, args, **kwargs)

    def get_interactive_tokens_and_lengths(self, lines, encode_fn):
        """Encode lines of ``fairseq-interactive``."""
        lines = [line for _, line in self.numbered(lines)]
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def numbered(self, lines):
        """Yield the lines of a buffer with their numbers in the whole input.

        Raises:
            UserError: a line is not valid UTF-8.
        """
        self.lines_before = self._lines_read
        self._lines_read += len(lines)
        for number, line in enumerate(lines, self.lines_before + 1):
            check_utf8(line, number)
            yield number, line

    def encode_text(self, text: str) -> list[str]:
        """Return the pieces of a text."""
        self._bpe = self._bpe or self.build_bpe(Namespace(bpe=None))
        return (text if self._bpe is None else self._bpe.encode(text)).split()

    def encode_pieces(self, pieces: list[str]) -> torch.Tensor:
        """Return the tokens of pieces, with ``</s>``, int64 [n + 1]."""
        return self.dictionary.encode_line(
            " ".join(pieces), line_tokenizer=str.split, add_if_not_exist=False
        ).long()

    def encode_prompt(self, text: str) -> torch.Tensor:
        """Return the tokens of a text that is to be continued."""
        return self.encode_pieces(self.encode_text(text))

    def decode_tokens(self, tokens: torch.Tensor) -> str:
        """Return the text of generated tokens."""
        pieces = self.dictionary.string(tokens.int().cpu())
        if self._bpe is None:
            return pieces
        # a continuation that begins a new word keeps the space before it
        space = " " if pieces.startswith("\u2581") else ""
        return space + self._bpe.decode(pieces)

    def decode_ids(self, ids: list[int]) -> str:
        """Return the text of token ids."""
        return self.decode_tokens(torch.tensor(ids, dtype=torch.int32))

    # ------------------------------------------------------------------------- validation

    def begin_epoch(self, epoch, model):
        """Try ``--sample-prompts`` once, so that a mistake does not show hours later."""
        if not self._tried_samples and self._writes_samples():
            self._sample(model, min(1, self.cfg.sample_length))
        self._tried_samples = True

    def _writes_samples(self):
        return is_first_worker() and bool(self.cfg.sample_prompts)

    def _sample(self, model, length):
        prompts = [p for p in self.cfg.sample_prompts.split("|") if p.strip()]
        options = (length, self.cfg.sample_topk, self.cfg.sample_temperature)
        return prompts, *sample_continuations(self, model, prompts, *options)

    def post_validate(self, model, stats, agg):
        """Write continuations of ``--sample-prompts``, on the first worker."""
        if not self._writes_samples():
            return
        prompts, texts, speed = self._sample(model, self.cfg.sample_length)
        if self._writer is None:
            self._writer = SampleWriter(self.cfg.tensorboard_logdir)
        self._writer.write(prompts, texts, stats["num_updates"], speed)
        stats["sample_tok_s"] = round(speed)

    @property
    def source_dictionary(self):
        return self.dictionary

    @property
    def target_dictionary(self):
        return self.dictionary

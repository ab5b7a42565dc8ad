"""``wmt16_translation``: fairseq's translation task that reads and writes plain text."""

import copy
import json
import logging
import os
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask, register_task
from fairseq.tasks.translation import EVAL_BLEU_ORDER, TranslationConfig, TranslationTask
from omegaconf import II
from sacrebleu.metrics import BLEU

from fairtale.data.corpus.vocabulary import fingerprint
from fairtale.data.parallel.dataset import (
    ScoredPairs,
    check_sides,
    find_pair,
    find_pieces,
    select_scored,
)
from fairtale.data.parallel.text import ParallelText, TextSettings, find_settings
from fairtale.errors import UserError
from fairtale.generation.sample_log import SampleWriter
from fairtale.modules.fast_gemm import choose_fast_fp32_products
from fairtale.tasks.text import build_pieces, check_utf8, is_first_worker, load_dictionary

logger = logging.getLogger(__name__)


@dataclass
class WMT16TranslationConfig(TranslationConfig):
    source_lang: Optional[str] = field(
        default=None,
        metadata={
            "help": "source language (default: what the checkpoint was trained with, else that "
            "of the data, else en)",
            "argparse_alias": "-s",
        },
    )
    target_lang: Optional[str] = field(
        default=None,
        metadata={"help": "target language (likewise, else ru)", "argparse_alias": "-t"},
    )
    eval_bleu_sentences: int = field(
        default=500,
        metadata={
            "help": "validation BLEU on so many sentences of each split, always the same, evenly "
            "spread (0: none; --eval-bleu: on all)"
        },
    )
    eval_bleu_args: Optional[str] = field(
        default='{"beam": 4, "lenpen": 0.6, "max_len_a": 1.5, "max_len_b": 10}',
        metadata={"help": "how they are translated: generation options as JSON"},
    )
    sample_translations: int = field(
        default=3,
        metadata={
            "help": "so many of their translations are written to the log and to TensorBoard "
            "at each validation"
        },
    )
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_task("wmt16_translation", dataclass=WMT16TranslationConfig)
class WMT16TranslationTask(TranslationTask):
    """Translation with the tokenizer that lies beside the data, and BLEU of plain text.

    The checkpoint remembers languages, tokenizer and dictionaries, so that generation needs no
    options.

    Raises:
        UserError: an option that contradicts the data or means nothing here.
    """

    cfg: WMT16TranslationConfig

    def __init__(self, cfg: WMT16TranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        for name, default in (
            ("eval_bleu_detok", "space"),
            ("eval_bleu_remove_bpe", None),
            ("eval_tokenized_bleu", False),
        ):
            if getattr(cfg, name) != default:
                raise UserError(
                    f"--{name.replace('_', '-')}: validation compares plain text, made with the "
                    "data's own tokenizer; leave it out"
                )
        for name in ("eval_bleu_sentences", "sample_translations"):
            if getattr(cfg, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: 0 or more")
        # fairseq's task then logs what _inference_with_bleu returns, for each batch and worker
        self.cfg = copy.copy(cfg)  # the command's own goes into the checkpoint as it was given
        self.cfg.eval_bleu = cfg.eval_bleu or cfg.eval_bleu_sentences > 0
        self._scores_all = cfg.eval_bleu
        self._paths = utils.split_paths(cfg.data or "")
        self._settings = find_settings(self._paths)
        self._tokenizer_path = find_pieces(self._paths, cfg.source_lang)
        self._asked = (None, None)
        self._has_checkpoint = False
        self._bleu = None
        self._text = None
        self._samples = []
        self._writer = None
        self._lines_read = 0

    @classmethod
    def setup_task(cls, cfg: WMT16TranslationConfig, **kwargs):
        """Find the languages and load their dictionaries.

        Raises:
            UserError: a dictionary is missing or damaged, or the data folders differ.
        """
        if not cfg.data:
            raise UserError("no data folder given: name one that prepare.sh has made")
        paths = utils.split_paths(cfg.data)
        asked = cfg.source_lang, cfg.target_lang
        cfg.source_lang, cfg.target_lang = find_pair(paths[0], *asked)
        dictionaries = []
        for lang in (cfg.source_lang, cfg.target_lang):
            dictionaries.append(load_dictionary(paths, f"dict.{lang}.txt", "prepare.sh"))
            logger.info("[%s] dictionary: %d types", lang, len(dictionaries[-1]))
        task = cls(cfg, *dictionaries)
        task._asked = asked
        return task

    # ------------------------------------------------------------------ what is remembered

    def state_dict(self):
        """What generation needs to know, kept in the checkpoint."""
        return {
            "languages": [self.cfg.source_lang, self.cfg.target_lang],
            "dictionaries": self._fingerprints(),
            "tokenizer": self._settings and asdict(self._settings),
            "pieces": self._tokenizer_path and os.path.abspath(self._tokenizer_path),
        }

    @staticmethod
    def direction_of(state_dict):
        """Return source and target language of a checkpoint's task state, or None.

        Commands ask before they set the task up: some take its dictionaries before they load
        the checkpoint, and would go on with those of the other direction.
        """
        return state_dict.get("languages")

    def load_state_dict(self, state_dict):
        """Take over what the checkpoint remembers, where no option says otherwise.

        Raises:
            UserError: it was trained with other languages, dictionaries or another tokenizer.
        """
        languages = state_dict.get("languages")
        if languages == [self.cfg.target_lang, self.cfg.source_lang]:
            self._turn_round(languages)
        self.check_checkpoint(state_dict)
        self._has_checkpoint = True
        if state_dict.get("tokenizer"):
            self._settings = TextSettings.from_dict(state_dict["tokenizer"], "the checkpoint")
        if self._tokenizer_path is None:
            known = state_dict.get("pieces")
            self._tokenizer_path = known if known and os.path.isfile(known) else None

    def _turn_round(self, languages):
        own, wanted = f"{self.cfg.source_lang}-{self.cfg.target_lang}", "-".join(languages)
        if self._has_checkpoint:
            raise UserError(
                f"a checkpoint translates {wanted} and one before it {own}: give models of one "
                "direction only"
            )
        if any(self._asked):
            raise UserError(
                f"-s {self.cfg.source_lang} -t {self.cfg.target_lang}: the checkpoint translates "
                f"{wanted}; leave them out"
            )
        if self.src_dict != self.tgt_dict:
            # who has set this task up may have taken one of them already
            raise UserError(
                f"the checkpoint translates {wanted}, and the task was set up for {own}: add "
                f"-s {languages[0]} -t {languages[1]}"
            )
        self.cfg.source_lang, self.cfg.target_lang = languages
        self.src_dict, self.tgt_dict = self.tgt_dict, self.src_dict
        self._tokenizer_path = find_pieces(self._paths, self.cfg.source_lang)

    def check_checkpoint(self, state_dict):
        """Refuse a checkpoint of other data; also called before training goes on."""
        languages = state_dict.get("languages")
        if languages is not None and languages != [self.cfg.source_lang, self.cfg.target_lang]:
            raise UserError(
                f"the checkpoint translates {'-'.join(languages)}, not "
                f"{self.cfg.source_lang}-{self.cfg.target_lang}: use its languages and its data"
            )
        known = state_dict.get("dictionaries")
        if known is not None and known != self._fingerprints():
            lang = languages[known[0] == self._fingerprints()[0]]
            raise UserError(
                f"the checkpoint was trained with another dictionary than "
                f"{self._paths[0]}/dict.{lang}.txt: use the data folder it was trained on"
            )
        known = state_dict.get("tokenizer")
        if known and self._settings and known != asdict(self._settings):
            raise UserError(
                f"the checkpoint was trained on text tokenised with {TextSettings(**known)}, "
                f"{self._paths[0]} says {self._settings}: use the data folder it was trained on"
            )

    def _fingerprints(self):
        return [fingerprint(self.src_dict), fingerprint(self.tgt_dict)]

    # ------------------------------------------------------------------------ text, pieces

    def build_tokenizer(self, args):
        """Build the tokenizer that ``--tokenizer`` names, else the one the data was made with."""
        if getattr(args, "_name", None) is not None or getattr(args, "tokenizer", None):
            return super().build_tokenizer(args)
        if self._settings is None:
            return None
        return ParallelText(self.cfg.source_lang, self.cfg.target_lang, self._settings)

    def build_bpe(self, args):
        """Build the pieces that ``--bpe`` names, else those beside the data."""
        return build_pieces(args, self._tokenizer_path)

    def get_interactive_tokens_and_lengths(self, lines, encode_fn):
        """Encode lines of ``fairseq-interactive``.

        Raises:
            UserError: a line is not valid UTF-8.
        """
        for number, line in enumerate(lines, self._lines_read + 1):
            check_utf8(line, number)
        self._lines_read += len(lines)
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def plain_text(self, tokens: torch.Tensor, unknown="<unk>", source=False) -> str:
        """Return the text of tokens: pieces joined, detokenised, entities unescaped."""
        if self._text is None:
            none = Namespace(tokenizer=None, bpe=None)
            self._text = self.build_bpe(none), self.build_tokenizer(none)
        bpe, text = self._text
        dictionary = self.src_dict if source else self.tgt_dict
        line = dictionary.string(tokens.int().cpu(), unk_string=unknown)
        line = line if bpe is None else bpe.decode(line)
        if text is None:
            return line
        return (text.source if source else text.target).detokenize(line)

    # ------------------------------------------------------------------------- validation

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Load a split; those for validation know which of their sentences are scored.

        Raises:
            UserError: the two sides differ in length, or the split is not there.
        """
        pair = self.cfg.source_lang, self.cfg.target_lang
        try:
            super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        except FileNotFoundError as error:
            raise UserError(
                f"split {split} for {'-'.join(pair)} not found in {self.cfg.data}: run prepare.sh "
                "again?"
            ) from error
        except AssertionError as error:
            check_sides(self._paths, split, pair)
            raise error
        pairs = self.datasets[split]
        if split != self.cfg.train_subset and self.cfg.eval_bleu and pairs.tgt is not None:
            count = len(pairs) if self._scores_all else self.cfg.eval_bleu_sentences
            self.datasets[split] = ScoredPairs(pairs, count)

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model, and the generator for validation."""
        choose_fast_fp32_products()  # for every architecture, so that they stay comparable
        model = FairseqTask.build_model(self, cfg, from_checkpoint)
        if self.cfg.eval_bleu:
            options = Namespace(**_json_options(self.cfg.eval_bleu_args))
            self.sequence_generator = self.build_generator([model], options)
        return model

    def _inference_with_bleu(self, generator, sample, model):
        """Return the BLEU statistics of a batch's scored sentences."""
        chosen = select_scored(sample, self.src_dict.pad())
        if chosen is None:
            none = [0] * EVAL_BLEU_ORDER
            return SimpleNamespace(sys_len=0, ref_len=0, counts=none, totals=none)
        found = self.inference_step(generator, [model], chosen)
        # what is unknown counts as wrong, and must not match itself
        best = [self.plain_text(f[0]["tokens"], "UNKNOWNHYP") for f in found]
        rows = [utils.strip_pad(row, self.tgt_dict.pad()) for row in chosen["target"]]
        references = [self.plain_text(row, "UNKNOWNREF") for row in rows]
        self._keep_samples(chosen, best, references)
        first, self._bleu = self._bleu is None, self._bleu or BLEU()
        score = self._bleu.corpus_score(best, [references])
        if first:
            logger.info("BLEU signature: %s", self._bleu.get_signature().format())
        return score

    def reduce_metrics(self, logging_outputs, criterion):
        """Sum BLEU's statistics; unlike fairseq's, also where every translation is empty."""
        FairseqTask.reduce_metrics(self, logging_outputs, criterion)
        if not any("_bleu_ref_len" in log for log in logging_outputs):
            return

        def total(name):
            return float(sum(log.get(name, 0) for log in logging_outputs))

        for name in ("counts", "totals"):
            sums = [total(f"_bleu_{name}_{i}") for i in range(EVAL_BLEU_ORDER)]
            metrics.log_scalar(f"_bleu_{name}", np.array(sums))
        for name in ("_bleu_sys_len", "_bleu_ref_len"):
            metrics.log_scalar(name, total(name))
        metrics.log_derived("bleu", _bleu_of_sums)

    def _keep_samples(self, chosen, best, references):
        for row, id_ in enumerate(chosen["id"].tolist()):
            tokens = utils.strip_pad(chosen["net_input"]["src_tokens"][row], self.src_dict.pad())
            source = self.plain_text(tokens, source=True)
            self._samples.append((id_, source, best[row], references[row]))

    def post_validate(self, model, stats, agg):
        """Write some of what the first worker has translated, short and long sentences."""
        found, self._samples = self._samples, []
        count = min(self.cfg.sample_translations, len(found))
        # batches go from short to long; the middle of each of `count` equal parts is shown
        samples = [found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count)]
        if not samples or not is_first_worker():
            return
        if self._writer is None:
            self._writer = SampleWriter(self.cfg.tensorboard_logdir).writer or False
        step = stats["num_updates"]
        for id_, source, text, reference in samples:
            logger.info("translation of sentence %d @ %d updates", id_, step)
            for name, line in (("source", source), ("model", text), ("reference", reference)):
                logger.info("  %-9s %s", name, line)
            if self._writer:
                lines = f"{source}\n\n**{text}**\n\n{reference}"
                self._writer.add_text(f"translation/{id_}", lines, step)
        if self._writer:
            self._writer.flush()


def _bleu_of_sums(meters):
    # the lists are changed by sacreBLEU, and a meter's sum is an array
    counts, totals = (meters[f"_bleu_{name}"].sum.tolist() for name in ("counts", "totals"))
    lengths = (int(meters[f"_bleu_{name}_len"].sum) for name in ("sys", "ref"))
    return round(BLEU.compute_bleu(counts, totals, *lengths, smooth_method="exp").score, 2)


def _json_options(text):
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise UserError(f"--eval-bleu-args {text}: not valid JSON ({error})") from None
    if not isinstance(options, dict):
        raise UserError(f'--eval-bleu-args {text}: options and values, as {{"beam": 4}}')
    return options

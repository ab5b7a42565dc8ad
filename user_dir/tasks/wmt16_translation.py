"""``wmt16_translation``: fairseq's translation task with plain text as input and output."""

import copy
import logging
from dataclasses import dataclass, field
from typing import Any, Optional, Self

from fairseq import utils
from fairseq.data import Dictionary
from fairseq.distributed.utils import get_global_rank
from fairseq.tasks import FairseqTask, register_task
from fairseq.tasks.translation import TranslationConfig
from omegaconf import II
from torch import nn

from fairtale.data.corpus.tokenizer import load_dictionary
from fairtale.data.parallel.dataset import (
    ScoredPairs,
    check_sides,
    find_pair,
    select_scored,
)
from fairtale.errors import UserError
from fairtale.tasks.translation import PlainTextTranslationTask
from fairtale.tasks.validation_bleu import (
    SampleTranslation,
    TranslationSamples,
    ValidationBLEU,
    log_bleu,
    read_bleu_args,
)

logger = logging.getLogger(__name__)


@dataclass
class WMT16TranslationConfig(TranslationConfig):
    """Options of ``wmt16_translation``."""

    source_lang: Optional[str] = field(
        default=None,
        metadata={
            "help": "source language (default: as in the checkpoint, else as in the data, else en)",
            "argparse_alias": "-s",
        },
    )
    target_lang: Optional[str] = field(
        default=None,
        metadata={
            "help": "target language (default: as in the checkpoint, else as in the data, else ru)",
            "argparse_alias": "-t",
        },
    )
    eval_bleu_sentences: int = field(
        default=500,
        metadata={
            "help": "number of sentences of each validation split for BLEU, evenly spread and "
            "always the same (0: no BLEU; with --eval-bleu: all sentences)"
        },
    )
    eval_bleu_args: Optional[str] = field(
        default='{"beam": 4, "lenpen": 0.6, "max_len_a": 1.5, "max_len_b": 10}',
        metadata={"help": "generation options for BLEU in validation, as JSON"},
    )
    sample_translations: int = field(
        default=3,
        metadata={
            "help": "number of translations that are written to the log and to TensorBoard at each "
            "validation"
        },
    )
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_task("wmt16_translation", dataclass=WMT16TranslationConfig)
class WMT16TranslationTask(PlainTextTranslationTask):
    """Translation with the tokenizer beside the data, and BLEU of plain text in validation.

    Checkpoints store the languages, the tokenizer and fingerprints of the dictionaries, so that
    generation needs no options.

    Raises:
        UserError: an option contradicts the data, or has no effect in this task.
    """

    cfg: WMT16TranslationConfig

    def __init__(
        self, cfg: WMT16TranslationConfig, src_dict: Dictionary, tgt_dict: Dictionary
    ) -> None:
        _check_config(cfg)
        super().__init__(cfg, src_dict, tgt_dict)
        # with eval_bleu, fairseq's task logs the result of _inference_with_bleu for each batch
        self.cfg = copy.copy(cfg)  # the original config is saved in the checkpoint, unchanged
        self.cfg.eval_bleu = cfg.eval_bleu or cfg.eval_bleu_sentences > 0
        self._scores_all = cfg.eval_bleu
        self._bleu = ValidationBLEU()
        self._samples = TranslationSamples(cfg.sample_translations, cfg.tensorboard_logdir)

    @classmethod
    def setup_task(cls, cfg: WMT16TranslationConfig, **kwargs: Any) -> Self:
        """Find the languages and load their dictionaries.

        Raises:
            UserError: a dictionary is missing or damaged, or the data folders differ.
        """
        if not cfg.data:
            raise UserError("no data folder given: give one that prepare.sh has made")
        paths = utils.split_paths(cfg.data)
        asked = cfg.source_lang, cfg.target_lang
        cfg.source_lang, cfg.target_lang = find_pair(paths[0], *asked)
        dictionaries = []
        for lang in (cfg.source_lang, cfg.target_lang):
            dictionaries.append(load_dictionary(paths, f"dict.{lang}.txt", "prepare.sh"))
            logger.info("[%s] dictionary: %d types", lang, len(dictionaries[-1]))
        task = cls(cfg, *dictionaries)
        task.asked_languages = asked
        return task

    # ------------------------------------------------------------------------- validation

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> None:
        """Load a split; in validation splits, mark the sentences that are scored.

        Raises:
            UserError: the two sides differ in length, or the split does not exist.
        """
        pair = self.languages
        try:
            super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        except FileNotFoundError as error:
            raise UserError(
                f"split {split} for {'-'.join(pair)} not found in {self.cfg.data}: run prepare.sh "
                "again?"
            ) from error
        except AssertionError as error:
            check_sides(self.paths, split, pair)
            raise error
        pairs = self.datasets[split]
        if split != self.cfg.train_subset and self.cfg.eval_bleu and pairs.tgt is not None:
            count = len(pairs) if self._scores_all else self.cfg.eval_bleu_sentences
            self.datasets[split] = ScoredPairs(pairs, count)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, and the generator for validation.

        Raises:
            UserError: ``--eval-bleu-args`` is not valid JSON.
        """
        # skip TranslationTask, which would also build a detokenizer from options refused here
        model: nn.Module = FairseqTask.build_model(self, cfg, from_checkpoint)
        if self.cfg.eval_bleu:
            options = read_bleu_args(self.cfg.eval_bleu_args)
            self.sequence_generator = self.build_generator([model], options)
        return model

    def _inference_with_bleu(self, generator: Any, sample: Any, model: nn.Module) -> Any:
        """Return the BLEU statistics of the scored sentences of a batch."""
        chosen = select_scored(sample, self.src_dict.pad())
        if chosen is None:
            return self._bleu.of_nothing()
        found = self.inference_step(generator, [model], chosen)

        def texts(rows: Any, dictionary: Dictionary, **options: Any) -> list[str]:
            pad = dictionary.pad()
            return [self.plain_text(utils.strip_pad(row, pad), **options) for row in rows]

        sources = texts(chosen["net_input"]["src_tokens"], self.src_dict, source=True)
        # unknown tokens of translations and references must not match each other
        best = [self.plain_text(f[0]["tokens"], "UNKNOWNHYP") for f in found]
        references = texts(chosen["target"], self.tgt_dict, unknown="UNKNOWNREF")
        parts = zip(chosen["id"].tolist(), sources, best, references, strict=True)
        self._samples.found += [SampleTranslation(*part) for part in parts]
        return self._bleu.score(best, references)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: nn.Module) -> None:
        """Log the criterion's metrics, and BLEU from the statistics of all workers."""
        # skip TranslationTask, whose BLEU fails if every translation is empty
        FairseqTask.reduce_metrics(self, logging_outputs, criterion)
        log_bleu(logging_outputs)

    def post_validate(self, model: nn.Module, stats: dict[str, Any], agg: Any) -> None:
        """Write some translations of the first worker, of sentences of different lengths."""
        samples = self._samples.take()
        if samples and get_global_rank() == 0:
            self._samples.write(samples, stats["num_updates"])


def _check_config(cfg: WMT16TranslationConfig) -> None:
    """Refuse options that have no effect in this task, or are out of range."""
    for name, default in (
        ("eval_bleu_detok", "space"),
        ("eval_bleu_remove_bpe", None),
        ("eval_tokenized_bleu", False),
    ):
        if getattr(cfg, name) != default:
            raise UserError(
                f"--{name.replace('_', '-')}: has no effect, because validation detokenizes with "
                "the tokenizer of the data; leave it out"
            )
    for name in ("eval_bleu_sentences", "sample_translations"):
        if getattr(cfg, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must be at least 0")

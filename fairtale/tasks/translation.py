"""Base class of the translation task, which reads and writes plain text."""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from fairseq import utils
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationTask
from torch import Tensor

from ..compat.pieces import refuse_joining_twice
from ..data.corpus.text_lines import check_utf8
from ..data.corpus.tokenizer import build_pieces
from ..data.corpus.vocabulary import fingerprint
from ..data.parallel.dataset import find_pieces
from ..data.parallel.text import ParallelText, TextSettings, find_settings
from ..errors import UserError


class PlainTextTranslationTask(TranslationTask):
    """fairseq's translation task with the tokenizer beside the data.

    Checkpoints store the languages, the tokenizer and fingerprints of the dictionaries, so that
    generation needs no options.

    Args:
        cfg: config of the registered task, which contains both languages.
        src_dict: fairseq's dictionary of the source language.
        tgt_dict: fairseq's dictionary of the target language.
    """

    fast_fp32_products = True
    cfg: Any
    src_dict: Dictionary
    tgt_dict: Dictionary

    def __init__(self, cfg: Any, src_dict: Dictionary, tgt_dict: Dictionary) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self.paths: list[str] = utils.split_paths(cfg.data or "")
        self.asked_languages: tuple[str | None, str | None] = (None, None)  # given by the user
        self._settings = find_settings(self.paths)
        self._tokenizer_path = find_pieces(self.paths, cfg.source_lang)
        self._has_checkpoint = False
        self._plain_text_tools: tuple[Any, ParallelText | None] | None = None
        self._lines_read = 0  # input lines of fairseq-interactive

    @property
    def languages(self) -> tuple[str, str]:
        """The source and the target language."""
        return self.cfg.source_lang, self.cfg.target_lang

    # ----------------------------------------------------------------------- stored settings

    def state_dict(self) -> dict[str, Any]:
        """Return the settings that generation needs, to be stored in the checkpoint."""
        path = self._tokenizer_path
        return {
            "languages": list(self.languages),
            "dictionaries": self._fingerprints(),
            "tokenizer": None if self._settings is None else asdict(self._settings),
            "pieces": None if path is None else os.path.abspath(path),
        }

    @staticmethod
    def direction_of(state_dict: dict[str, Any]) -> Sequence[str] | None:
        """Return the source and target language in a checkpoint's task state, or None.

        Commands need the languages before they set up the task: some take its dictionaries before
        they load the checkpoint, and would otherwise use those of the opposite direction.
        """
        return state_dict.get("languages")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the settings that no option gives from the task state of a checkpoint.

        Raises:
            UserError: the checkpoint was trained with other languages, with other dictionaries or
                with another tokenizer.
        """
        languages = state_dict.get("languages")
        if languages == list(reversed(self.languages)):
            self._swap_languages(languages)
        self.check_checkpoint(state_dict)
        self._has_checkpoint = True
        if state_dict.get("tokenizer"):
            self._settings = TextSettings.from_dict(state_dict["tokenizer"], "the checkpoint")
        if self._tokenizer_path is None:
            known = state_dict.get("pieces")
            self._tokenizer_path = known if known and os.path.isfile(known) else None

    def _swap_languages(self, languages: list[str]) -> None:
        """Exchange source and target, to match the checkpoint.

        Raises:
            UserError: the direction is already fixed by an option, a model or the caller.
        """
        own, wanted = "-".join(self.languages), "-".join(languages)
        if self._has_checkpoint:
            raise UserError(
                f"a checkpoint translates {wanted}, and an earlier one {own}: give models of one "
                "direction only"
            )
        if any(self.asked_languages):
            raise UserError(
                f"-s {self.cfg.source_lang} -t {self.cfg.target_lang}: the checkpoint translates "
                f"{wanted}; leave the options out"
            )
        if self.src_dict != self.tgt_dict:
            # the caller may already use one of the two dictionaries
            raise UserError(
                f"the checkpoint translates {wanted}, and the task was set up for {own}: add "
                f"-s {languages[0]} -t {languages[1]}"
            )
        self.cfg.source_lang, self.cfg.target_lang = languages
        self.src_dict, self.tgt_dict = self.tgt_dict, self.src_dict
        self._tokenizer_path = find_pieces(self.paths, self.cfg.source_lang)

    def check_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained on other data.

        It is also called before training loads a checkpoint.

        Raises:
            UserError: languages, dictionaries or tokenizers differ.
        """
        languages = state_dict.get("languages")
        if languages is not None and languages != list(self.languages):
            raise UserError(
                f"the checkpoint translates {'-'.join(languages)}, not "
                f"{'-'.join(self.languages)}: use its languages and its data"
            )
        known = state_dict.get("dictionaries") or self._fingerprints()
        for lang, before, now in zip(self.languages, known, self._fingerprints()):
            if before != now:
                raise UserError(
                    f"the checkpoint was trained with another dictionary than "
                    f"{self.paths[0]}/dict.{lang}.txt: use the data folder that it was trained on"
                )
        known = state_dict.get("tokenizer")
        if known and self._settings and known != asdict(self._settings):
            raise UserError(
                f"the checkpoint was trained on text tokenised with {TextSettings(**known)}, but "
                f"{self.paths[0]} has {self._settings}: use the data folder that it was trained on"
            )

    def _fingerprints(self) -> list[str]:
        return [fingerprint(self.src_dict), fingerprint(self.tgt_dict)]

    # ------------------------------------------------------------------------ text, pieces

    def build_tokenizer(self, args: Any) -> Any:
        """Build the tokenizer that ``--tokenizer`` selects, or else the one of the data."""
        if getattr(args, "_name", None) is not None or getattr(args, "tokenizer", None):
            return super().build_tokenizer(args)
        if self._settings is None:
            return None
        return ParallelText(*self.languages, self._settings)

    @classmethod
    def check_command(cls, args: Namespace) -> None:
        """Refuse to join the pieces of a text twice.

        Raises:
            UserError: ``--remove-bpe`` is given, and the tokenizer beside the data joins pieces.
        """
        paths = utils.split_paths(getattr(args, "data", None) or "")
        pieces = find_pieces(paths, getattr(args, "source_lang", None) or "")
        refuse_joining_twice(args, pieces is not None)

    def build_bpe(self, args: Any) -> Any:
        """Build the sub-word model that ``--bpe`` selects, or else the one beside the data."""
        return build_pieces(args, self._tokenizer_path)

    def get_interactive_tokens_and_lengths(
        self, lines: list[str], encode_fn: Callable[[str], str]
    ) -> tuple[list[Tensor], list[int]]:
        """Encode input lines of ``fairseq-interactive``.

        Raises:
            UserError: a line is not valid UTF-8.
        """
        for number, line in enumerate(lines, self._lines_read + 1):
            check_utf8(line, number)
        self._lines_read += len(lines)
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def plain_text(self, tokens: Tensor, unknown: str = "<unk>", source: bool = False) -> str:
        """Decode tokens to text, with pieces joined, detokenised and with entities unescaped.

        Args:
            tokens: int [n], without padding.
            unknown: string for unknown tokens.
            source: whether the tokens are of the source language.
        """
        if self._plain_text_tools is None:
            none = Namespace(tokenizer=None, bpe=None)
            self._plain_text_tools = self.build_bpe(none), self.build_tokenizer(none)
        bpe, text = self._plain_text_tools
        dictionary = self.src_dict if source else self.tgt_dict
        line: str = dictionary.string(tokens.int().cpu(), unk_string=unknown)
        line = line if bpe is None else bpe.decode(line)
        if text is None:
            return line
        return (text.source if source else text.target).detokenize(line)

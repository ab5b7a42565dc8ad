"""What a translation task needs to read and write plain text, and to remember how."""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from fairseq import utils
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationTask
from torch import Tensor

from ..data.corpus.text_lines import check_utf8
from ..data.corpus.tokenizer import build_pieces
from ..data.corpus.vocabulary import fingerprint
from ..data.parallel.dataset import find_pieces
from ..data.parallel.text import ParallelText, TextSettings, find_settings
from ..errors import UserError


class PlainTextTranslationTask(TranslationTask):
    """fairseq's translation with the tokenizer that lies beside the data.

    The checkpoint remembers languages, tokenizer and dictionaries, so that generation needs no
    options.

    Args:
        cfg: the registered task's config, which names both languages.
        src_dict, tgt_dict: fairseq's dictionaries.
    """

    fast_fp32_products = True
    cfg: Any
    src_dict: Dictionary
    tgt_dict: Dictionary

    def __init__(self, cfg: Any, src_dict: Dictionary, tgt_dict: Dictionary) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self.paths: list[str] = utils.split_paths(cfg.data or "")
        self.asked_languages: tuple[str | None, str | None] = (None, None)  # by the user
        self._settings = find_settings(self.paths)
        self._tokenizer_path = find_pieces(self.paths, cfg.source_lang)
        self._has_checkpoint = False
        self._plain_text_tools: tuple[Any, ParallelText | None] | None = None
        self._lines_read = 0  # of fairseq-interactive's input

    @property
    def languages(self) -> tuple[str, str]:
        """The source and the target language."""
        return self.cfg.source_lang, self.cfg.target_lang

    # ------------------------------------------------------------------ what is remembered

    def state_dict(self) -> dict[str, Any]:
        """Return what generation needs to know, to be kept in the checkpoint."""
        path = self._tokenizer_path
        return {
            "languages": list(self.languages),
            "dictionaries": self._fingerprints(),
            "tokenizer": None if self._settings is None else asdict(self._settings),
            "pieces": None if path is None else os.path.abspath(path),
        }

    @staticmethod
    def direction_of(state_dict: dict[str, Any]) -> Sequence[str] | None:
        """Return source and target language of a checkpoint's task state, or None.

        Commands ask before they set the task up: some take its dictionaries before they load
        the checkpoint, and would go on with those of the other direction.
        """
        return state_dict.get("languages")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what the checkpoint remembers, where no option says otherwise.

        Raises:
            UserError: it was trained with other languages, dictionaries or another tokenizer.
        """
        languages = state_dict.get("languages")
        if languages == list(reversed(self.languages)):
            self._turn_round(languages)
        self.check_checkpoint(state_dict)
        self._has_checkpoint = True
        if state_dict.get("tokenizer"):
            self._settings = TextSettings.from_dict(state_dict["tokenizer"], "the checkpoint")
        if self._tokenizer_path is None:
            known = state_dict.get("pieces")
            self._tokenizer_path = known if known and os.path.isfile(known) else None

    def _turn_round(self, languages: list[str]) -> None:
        own, wanted = "-".join(self.languages), "-".join(languages)
        if self._has_checkpoint:
            raise UserError(
                f"a checkpoint translates {wanted} and one before it {own}: give models of one "
                "direction only"
            )
        if any(self.asked_languages):
            raise UserError(
                f"-s {self.cfg.source_lang} -t {self.cfg.target_lang}: the checkpoint translates "
                f"{wanted}; leave them out"
            )
        if self.src_dict != self.tgt_dict:
            # the caller may hold one of the two dictionaries already
            raise UserError(
                f"the checkpoint translates {wanted}, and the task was set up for {own}: add "
                f"-s {languages[0]} -t {languages[1]}"
            )
        self.cfg.source_lang, self.cfg.target_lang = languages
        self.src_dict, self.tgt_dict = self.tgt_dict, self.src_dict
        self._tokenizer_path = find_pieces(self.paths, self.cfg.source_lang)

    def check_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint of other data; also called before training goes on."""
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
                    f"{self.paths[0]}/dict.{lang}.txt: use the data folder it was trained on"
                )
        known = state_dict.get("tokenizer")
        if known and self._settings and known != asdict(self._settings):
            raise UserError(
                f"the checkpoint was trained on text tokenised with {TextSettings(**known)}, "
                f"{self.paths[0]} says {self._settings}: use the data folder it was trained on"
            )

    def _fingerprints(self) -> list[str]:
        return [fingerprint(self.src_dict), fingerprint(self.tgt_dict)]

    # ------------------------------------------------------------------------ text, pieces

    def build_tokenizer(self, args: Any) -> Any:
        """Build the tokenizer that ``--tokenizer`` names, else the one the data was made with."""
        if getattr(args, "_name", None) is not None or getattr(args, "tokenizer", None):
            return super().build_tokenizer(args)
        if self._settings is None:
            return None
        return ParallelText(*self.languages, self._settings)

    def build_bpe(self, args: Any) -> Any:
        """Build the pieces that ``--bpe`` names, else those beside the data."""
        return build_pieces(args, self._tokenizer_path)

    def get_interactive_tokens_and_lengths(
        self, lines: list[str], encode_fn: Callable[[str], str]
    ) -> tuple[list[Tensor], list[int]]:
        """Encode lines of ``fairseq-interactive``.

        Raises:
            UserError: a line is not valid UTF-8.
        """
        for number, line in enumerate(lines, self._lines_read + 1):
            check_utf8(line, number)
        self._lines_read += len(lines)
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def plain_text(self, tokens: Tensor, unknown: str = "<unk>", source: bool = False) -> str:
        """Return the text of tokens: pieces joined, detokenised, entities unescaped.

        Args:
            tokens: int [n], without padding.
            unknown: stands for the tokens that the dictionary lacks.
            source: whether they are of the source language.
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

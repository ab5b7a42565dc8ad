"""Tokenise and detokenise text as Moses does, with settings that are stored beside the data."""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ...errors import UserError
from ..corpus.lengths import UNSPACED_LANGUAGES

SETTINGS_FILE = "tokenizer.json"
TOKENIZERS = ("moses", "none")

# Control characters become a space; characters without width are removed.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
# An acute accent on a Cyrillic letter marks the stress. Moses would split the word there.
_STRESS = re.compile("(?<=[\u0400-\u04ff])\u0301")
# Zero-width joiner and non-joiner, and letters of no language in use that stand for them.
_LETTERS = {"\u200c": "\u0195\u01bf", "\u200d": "\u0195\u0223"}
# A variation selector or a colour of skin belongs to the emoji before it.
_BEFORE_MARK = re.compile("(?<=\\S) (?=[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff])")
_JOINERS = re.compile(r"(?<=\S)[\u200c\u200d](?=\S)")


@dataclass(frozen=True)
class TextSettings:
    """Settings of the tokenisation of raw text.

    Args:
        tokenizer: ``moses``, or ``none`` (for languages without spaces between words).
        normalize: unify quotes, dashes and spaces, as Moses does.
        escape: write special characters as XML entities (``&apos;``), as Moses does by default,
            and decode them when text is detokenised. SentencePiece needs about four pieces for
            such an entity.
    """

    tokenizer: str = "moses"
    normalize: bool = True
    escape: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Self:
        """Return the settings in ``values``.

        Args:
            values: a mapping with exactly the fields of this class.
            where: where the values come from, for the error message.

        Raises:
            UserError: the values are not valid settings.
        """
        wanted = {field.name: type(field.default) for field in fields(cls)}
        found = {name: type(value) for name, value in dict(values).items()}
        if found != wanted or values["tokenizer"] not in TOKENIZERS:
            raise UserError(
                f"{where}: it holds {json.dumps(values)}, not the settings of a tokenizer "
                f"({json.dumps(asdict(cls()))}): make it with `fairtale bitext`"
            )
        return cls(**values)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def default_tokenizer(languages: Iterable[str]) -> str:
    """Return ``none`` if one of the languages has no spaces between words, else ``moses``.

    Args:
        languages: codes such as ``zh``, ``zh-TW`` or ``th_TH``.
    """
    codes = {re.split("[-_.]", language.lower())[0] for language in languages}
    return "none" if codes & UNSPACED_LANGUAGES else "moses"


def write_settings(folder: str, settings: TextSettings) -> None:
    """Write ``settings`` to the file of a data folder that :func:`find_settings` reads."""
    with open(os.path.join(folder, SETTINGS_FILE), "w", encoding="utf-8") as stream:
        stream.write(f"{settings}\n")


def find_settings(paths: Iterable[str]) -> TextSettings | None:
    """Return the settings of the first data folder that has a settings file, or None.

    A byte-level BPE has a file of the same name; its text is not tokenised before.

    Raises:
        UserError: the file was not written by `fairtale bitext`, or it is damaged.
    """
    for path in paths:
        name = os.path.join(path, SETTINGS_FILE)
        if os.path.isfile(name):
            try:
                with open(name, encoding="utf-8") as stream:
                    found = json.load(stream)
                if isinstance(found, dict) and "model" in found:
                    continue
                return TextSettings.from_dict(found, name)
            except (ValueError, TypeError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{name}: not valid JSON ({error}); make it again") from None
    return None


def clean_line(text: str) -> str:
    """Return ``text`` in Unicode NFC, with single spaces and without control characters."""
    if not text.isascii():
        text = _STRESS.sub("", unicodedata.normalize("NFC", _INVISIBLE.sub("", text)))
    return " ".join(_CONTROL.sub(" ", text).split())


class LanguageText:
    """The tokenizer and detokenizer of one language.

    Moses's normalisation of numbers is disabled: it would write 10.000 for the Russian 10 000.

    Args:
        language: two-letter code, which selects Moses's rules for abbreviations and quotes.
        settings: how to tokenise.
    """

    def __init__(self, language: str, settings: TextSettings) -> None:
        self.settings = settings
        # sacremoses has no type annotations.
        self._normalizer: Any = None
        self._tokenizer: Any = None
        self._detokenizer: Any = None
        if settings.normalize or settings.tokenizer == "moses":
            import sacremoses

            if settings.normalize:
                self._normalizer = sacremoses.MosesPunctNormalizer(language, norm_numbers=False)
            if settings.tokenizer == "moses":
                self._tokenizer = sacremoses.MosesTokenizer(language)
                self._detokenizer = sacremoses.MosesDetokenizer(language)

    def tokenize(self, text: str) -> str:
        """Return the tokens of a text, separated by single spaces."""
        text = clean_line(text)
        if self._normalizer is not None:
            text = " ".join(self._normalizer.normalize(text).split())
        if self._tokenizer is not None:
            # Moses would put spaces around joiners, which stand inside a word.
            text = _JOINERS.sub(lambda joiner: _LETTERS[joiner[0]], text)
            text = self._tokenizer.tokenize(text, return_str=True, escape=self.settings.escape)
            for joiner, letter in _LETTERS.items():
                if letter in text:
                    text = re.sub(f" *{letter} *", joiner, text)
            text = _BEFORE_MARK.sub("", text)
        return text

    def detokenize(self, tokens: str) -> str:
        """Return the text of tokens that are separated by spaces."""
        if self._detokenizer is None:
            return tokens
        text: str = self._detokenizer.detokenize(tokens.split(), unescape=self.settings.escape)
        return text


class ParallelText:
    """A tokenizer for fairseq's commands: it encodes source text and decodes target text."""

    def __init__(self, source_lang: str, target_lang: str, settings: TextSettings) -> None:
        self.source = LanguageText(source_lang, settings)
        self.target = LanguageText(target_lang, settings)
        self.encode = self.source.tokenize
        self.decode = self.target.detokenize

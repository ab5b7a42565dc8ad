"""Raw text to tokens as Moses writes them, and back; kept as settings beside the data."""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ...errors import UserError

SETTINGS_FILE = "tokenizer.json"
TOKENIZERS = ("moses", "none")

# Control characters become a space; characters without any width are removed.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
# An acute accent on a Cyrillic letter marks the stress, and Moses would cut the word there.
_STRESS = re.compile("(?<=[\u0400-\u04ff])\u0301")


@dataclass(frozen=True)
class TextSettings:
    """How raw text became tokens.

    Args:
        tokenizer: ``moses``, or ``none`` (for languages without spaces between words).
        normalize: quotes, dashes and spaces are made alike, as Moses does.
        escape: Moses writes special characters as XML entities (``&apos;``), and they are read
            back. SentencePiece would need four pieces for one.
    """

    tokenizer: str = "moses"
    normalize: bool = True
    escape: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Self:
        """Return the settings in ``values``.

        Raises:
            UserError: they are not those of this class; ``where`` is named in the message.
        """
        wanted = {field.name: type(field.default) for field in fields(cls)}
        found = {name: type(value) for name, value in dict(values).items()}
        if found != wanted or values["tokenizer"] not in TOKENIZERS:
            raise UserError(
                f"{where}: holds {json.dumps(values)}, not the settings of a tokenizer "
                f"({json.dumps(asdict(cls()))}): make it with `fairtale bitext`"
            )
        return cls(**values)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def write_settings(folder: str, settings: TextSettings) -> None:
    """Write ``settings`` where :func:`find_settings` looks for them."""
    with open(os.path.join(folder, SETTINGS_FILE), "w", encoding="utf-8") as stream:
        stream.write(f"{settings}\n")


def find_settings(paths: Iterable[str]) -> TextSettings | None:
    """Return the settings beside the data, of the first of ``paths`` that has some.

    Raises:
        UserError: the file is not what `fairtale bitext` writes.
    """
    for path in paths:
        name = os.path.join(path, SETTINGS_FILE)
        if os.path.isfile(name):
            try:
                with open(name, encoding="utf-8") as stream:
                    return TextSettings.from_dict(json.load(stream), name)
            except (ValueError, TypeError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{name}: not valid JSON ({error}); make it again") from None
    return None


def clean_line(text: str) -> str:
    """Return ``text`` in composed Unicode, with single spaces, without control characters."""
    if not text.isascii():
        text = _STRESS.sub("", unicodedata.normalize("NFC", _INVISIBLE.sub("", text)))
    return " ".join(_CONTROL.sub(" ", text).split())


class LanguageText:
    """Tokenise and detokenise one language.

    Moses's rule for numbers is left out: it would write 10.000 for the Russian 10 000.

    Args:
        language: two letters, for its abbreviations and quotes.
        settings: :class:`TextSettings`.
    """

    def __init__(self, language: str, settings: TextSettings) -> None:
        self.settings = settings
        # sacremoses has no types
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
            text = self._tokenizer.tokenize(text, return_str=True, escape=self.settings.escape)
        return text

    def detokenize(self, tokens: str) -> str:
        """Return the text of tokens that are separated by spaces."""
        if self._detokenizer is None:
            return tokens
        text: str = self._detokenizer.detokenize(tokens.split(), unescape=self.settings.escape)
        return text


class ParallelText:
    """The tokenizer that fairseq's commands are given: source text in, target text out."""

    def __init__(self, source_lang: str, target_lang: str, settings: TextSettings) -> None:
        self.source = LanguageText(source_lang, settings)
        self.target = LanguageText(target_lang, settings)
        self.encode = self.source.tokenize
        self.decode = self.target.detokenize

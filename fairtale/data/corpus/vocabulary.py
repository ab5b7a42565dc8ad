"""Relate the entries of a fairseq dictionary to text: byte counts, decoding, fingerprints."""

import hashlib
import json
import os
import re
from collections.abc import Iterable

import torch
from fairseq.data import Dictionary

from ...errors import UserError
from .byte_level import FILLER, is_byte_level, piece_bytes
from .byte_level_files import TOKENIZER_JSON

TOKENIZER_FILE = "sentencepiece.bpe.model"  # fairseq's file name for a tokenizer beside a model
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
SPACE = "\u2581"
_LONGEST_SETTINGS = 4096  # bytes; those of `fairtale bitext` have less, and tokenizers have more


def token_bytes(dictionary: Dictionary) -> torch.Tensor:
    """Return how many UTF-8 bytes of text each entry stands for, int64 [V].

    In a SentencePiece vocabulary, ``\u2581`` is one space and ``<0xE2>`` one byte. In a byte-level
    vocabulary, each character is one byte, and other tokens are text. In other vocabularies,
    entries are words, each followed by one space or line end. Special symbols count as 0 bytes. An
    unknown piece counts as one byte, so bits per byte are exact only for a text without unknown
    pieces; byte-level pieces are never unknown.
    """
    return torch.tensor([len(text) for text in entry_texts(dictionary)], dtype=torch.long)


def entry_texts(dictionary: Dictionary) -> list[bytes]:
    """Return the UTF-8 bytes of text that each entry stands for; see :func:`token_bytes`."""
    symbols = dictionary.symbols
    sub_word = has_sub_words(dictionary)
    byte_level = is_byte_level(symbols)
    special = {dictionary.bos(), dictionary.pad(), dictionary.eos()}
    texts = []
    for i, symbol in enumerate(symbols):
        byte = _BYTE.fullmatch(symbol) if sub_word and not byte_level else None
        if i in special or FILLER.fullmatch(symbol):
            text = b""
        elif i == dictionary.unk():
            text = b"?"
        elif byte_level:
            text = piece_bytes(symbol)
        elif byte is not None:
            text = bytes([int(symbol[3:-1], 16)])
        elif sub_word:
            text = symbol.replace(SPACE, " ").encode()
        else:
            text = symbol.encode() + b" "
        texts.append(text)
    return texts


def has_sub_words(dictionary: Dictionary) -> bool:
    """Return whether the entries are pieces of words, byte-level or of SentencePiece."""
    symbols = dictionary.symbols
    return is_byte_level(symbols) or any(SPACE in symbol for symbol in symbols)


def decode_pieces(pieces: str) -> str:
    """Return the text of SentencePiece pieces that are separated by spaces.

    Unlike fairseq's decoder, this function joins byte pieces to characters; an incomplete
    character becomes U+FFFD.
    """
    text = bytearray()
    for piece in pieces.split(" "):
        text += bytes([int(piece[1:-1], 16)]) if _BYTE.fullmatch(piece) else piece.encode()
    return text.decode(errors="replace").replace(SPACE, " ").strip()


def fingerprint(dictionary: Dictionary) -> str:
    """Return the SHA-256 of the dictionary's entries in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode()).hexdigest()


def find_tokenizer(paths: Iterable[str]) -> str | None:
    """Return the path of the tokenizer in the first of the folders that has one, or None.

    It is a SentencePiece model (:data:`TOKENIZER_FILE`) or a byte-level BPE (``tokenizer.json``).

    Raises:
        UserError: a folder has both.
    """
    for path in paths:
        names = (TOKENIZER_FILE, TOKENIZER_JSON)
        found = [os.path.join(path, name) for name in names]
        found = [file for file in found if os.path.isfile(file) and not holds_text_settings(file)]
        if len(found) > 1:
            raise UserError(
                f"{path} holds two tokenizers, {' and '.join(names)}: remove the one that did not "
                "encode the data"
            )
        if found:
            return found[0]
    return None


def holds_text_settings(path: str) -> bool:
    """Return whether a file has the settings of `fairtale bitext`, also named tokenizer.json."""
    if os.path.basename(path) != TOKENIZER_JSON or os.path.getsize(path) > _LONGEST_SETTINGS:
        return False
    try:
        with open(path, encoding="utf-8") as stream:
            described = json.load(stream)
    except ValueError:  # also for bad UTF-8
        return False
    return isinstance(described, dict) and "tokenizer" in described and "model" not in described

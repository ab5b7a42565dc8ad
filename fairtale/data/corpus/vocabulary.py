"""Relate the entries of a fairseq dictionary to text: byte counts, decoding, fingerprints."""

import hashlib
import json
import os
import re
from collections.abc import Iterable

import torch
from fairseq.data import Dictionary

from ...errors import UserError
from .byte_level import is_byte_level, piece_bytes
from .byte_level_files import TOKENIZER_JSON

TOKENIZER_FILE = "sentencepiece.bpe.model"  # fairseq's file name for a tokenizer beside a model
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
SPACE = "\u2581"
_FILLER = re.compile(r"madeupword\d{4,}")  # fairseq's names for entries without a meaning
_LONGEST_SETTINGS = 4096  # bytes; those of `fairtale bitext` have less, and tokenizers have more


def token_bytes(dictionary: Dictionary) -> torch.Tensor:
    """Return how many UTF-8 bytes of text each entry stands for, int64 [V].

    In a SentencePiece vocabulary, ``\u2581`` is one space and ``<0xE2>`` one byte. In a byte-level
    vocabulary, each character is one byte, and other tokens are text. In other vocabularies,
    entries are words, each followed by one space or line end. Special symbols count as 0 bytes. An
    unknown piece counts as one byte, so bits per byte are exact only for a text without unknown
    pieces; byte-level pieces are never unknown.
    """
    symbols = dictionary.symbols
    byte_level = is_byte_level(symbols)
    pieces = not byte_level and any(SPACE in s for s in symbols)
    special = {dictionary.bos(), dictionary.pad(), dictionary.eos()}
    counts = torch.zeros(len(symbols), dtype=torch.long)
    for i, symbol in enumerate(symbols):
        if i in special or _FILLER.fullmatch(symbol):
            continue
        if i == dictionary.unk() or (pieces and _BYTE.fullmatch(symbol)):
            counts[i] = 1
        elif byte_level:
            counts[i] = len(piece_bytes(symbol))
        elif pieces:
            counts[i] = len(symbol.replace(SPACE, " ").encode())
        else:
            counts[i] = len(symbol.encode()) + 1
    return counts


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

"""Relate the entries of a fairseq dictionary to text: byte counts, decoding, fingerprints."""

import hashlib
import os
import re
from collections.abc import Iterable

import torch
from fairseq.data import Dictionary

TOKENIZER_FILE = "sentencepiece.bpe.model"  # fairseq's file name for a tokenizer beside a model
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "\u2581"


def token_bytes(dictionary: Dictionary) -> torch.Tensor:
    """Return how many UTF-8 bytes of text each entry stands for, int64 [V].

    In a SentencePiece vocabulary, ``\u2581`` is one space and ``<0xE2>`` one byte. In other
    vocabularies, entries are words, each followed by one space or line end. Special symbols count
    as 0 bytes. An unknown piece counts as one byte, so bits per byte are exact only for a text
    without unknown pieces.
    """
    symbols = dictionary.symbols
    pieces = any(_SPACE in s for s in symbols)
    special = {dictionary.bos(), dictionary.pad(), dictionary.eos()}
    counts = torch.zeros(len(symbols), dtype=torch.long)
    for i, symbol in enumerate(symbols):
        if i in special or symbol.startswith("madeupword"):
            continue
        if i == dictionary.unk() or (pieces and _BYTE.fullmatch(symbol)):
            counts[i] = 1
        elif pieces:
            counts[i] = len(symbol.replace(_SPACE, " ").encode())
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
    return text.decode(errors="replace").replace(_SPACE, " ").strip()


def fingerprint(dictionary: Dictionary) -> str:
    """Return the SHA-256 of the dictionary's entries in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode()).hexdigest()


def find_tokenizer(paths: Iterable[str]) -> str | None:
    """Return the path of the tokenizer in the first of the folders that has one, or None."""
    for path in paths:
        candidate = os.path.join(path, TOKENIZER_FILE)
        if os.path.isfile(candidate):
            return candidate
    return None

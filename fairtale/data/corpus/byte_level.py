"""Byte-level BPE: the byte alphabet of GPT-2, and an encoder on the library ``tokenizers``.

Every byte of a text in UTF-8 has a printable character in this alphabet, so the pieces of any text
contain neither white space nor unknown characters. Special tokens and other added tokens are
pieces in plain letters, such as ``<|endoftext|>``.

Source: Radford et al. 2019, and the function ``bytes_to_unicode`` in the code of GPT-2.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ...errors import UserError


def _byte_alphabet() -> tuple[str, ...]:
    """Return the character of each byte: printable ones are themselves, others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


BYTE_ALPHABET = _byte_alphabet()  # the character of each byte
_BYTES = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}
_LATIN = {ord(character): byte for byte, character in enumerate(BYTE_ALPHABET)}  # for translate
_SPACE = BYTE_ALPHABET[0x20]
FILLER = re.compile(r"madeupword\d{4,}")  # fairseq's names for entries without a meaning


def is_byte_level(symbols: Iterable[str]) -> bool:
    """Return whether all 256 characters of the byte alphabet are among the entries."""
    return _BYTES.keys() <= set(symbols)


def piece_bytes(piece: str) -> bytes:
    """Return the bytes that a piece stands for: those of the alphabet, or of a plain token.

    An id without a token stands for nothing.
    """
    if FILLER.fullmatch(piece):
        return b""
    if _BYTES.keys() >= set(piece):
        return _alphabet_bytes(piece)
    return piece.encode(errors="replace")


def _alphabet_bytes(characters: str) -> bytes:
    return characters.translate(_LATIN).encode("latin-1")


def decode_byte_level(pieces: str) -> str:
    """Return the text of byte-level pieces that are separated by spaces.

    No tokenizer is needed. Bytes that are not UTF-8, such as those of an incomplete character,
    become U+FFFD.
    """
    words = [word for word in pieces.split() if not FILLER.fullmatch(word)]
    if _BYTES.keys() >= set("".join(words)):  # no plain token is among them
        return _alphabet_bytes("".join(words)).decode(errors="replace")
    return b"".join(map(piece_bytes, words)).decode(errors="replace")


class ByteLevelBPE:
    """A byte-level BPE tokenizer with the interface of fairseq's encoders.

    The index of a piece in :attr:`pieces` is its id, the same as in Hugging Face's tokenizers.
    Any text can be encoded, and decoding returns it byte for byte. There is one exception: a
    tokenizer with ``add_prefix_space`` writes a space before a text that does not begin with one,
    and the decoder removes it, so that a text loses a space of its own there.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` that
            :func:`~fairtale.data.corpus.byte_level_files.load_byte_level` has checked.
        path: where it comes from, for error messages.
    """

    def __init__(self, tokenizer: Any, path: str) -> None:
        self.path = path
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        # an id without a token gets the name that fairseq gives to entries that fill a dictionary
        self.pieces = [f"madeupword{i:04d}" for i in range(1 + max(vocabulary.values()))]
        for piece, index in vocabulary.items():
            self.pieces[index] = piece
        self.added_tokens = {token.content: index for index, token in added.items()}
        self.special_tokens = {t.content: index for index, t in added.items() if t.special}
        self.adds_prefix_space = bool(getattr(tokenizer.pre_tokenizer, "add_prefix_space", False))

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.pieces)

    def encode(self, x: str) -> str:
        """Return the pieces of a text, separated by spaces."""
        return " ".join(self.encode_many([x])[0])

    def encode_ids(self, x: str) -> list[int]:
        """Return the ids of the pieces of a text."""
        ids: list[int] = self._encode([x])[0].ids
        return ids

    def encode_ids_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of the pieces of each of several texts."""
        return [encoding.ids for encoding in self._encode(texts)]

    def encode_many(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the pieces of each of several texts."""
        return [[self.pieces[i] for i in encoding.ids] for encoding in self._encode(texts)]

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        try:
            if len(texts) == 1:  # unlike a batch, one text starts no threads
                return [self._tokenizer.encode(texts[0], add_special_tokens=False)]
            encodings: list[Any] = self._tokenizer.encode_batch_fast(
                texts, add_special_tokens=False
            )
        except (TypeError, UnicodeEncodeError):  # half of a surrogate pair
            raise UserError("the text has bytes that are not valid UTF-8") from None
        return encodings

    def decode(self, x: str) -> str:
        """Return the text of pieces that are separated by spaces.

        Bytes that are not UTF-8, such as those of an incomplete character, become U+FFFD.
        """
        if not self.adds_prefix_space:
            return decode_byte_level(x)
        # The tokenizer also adds a space to the text behind each added token.
        out, begins = list[bytes](), True
        for piece in x.split():
            text = piece_bytes(piece)
            out.append(text.removeprefix(b" ") if begins else text)
            begins = piece in self.added_tokens
        return b"".join(out).decode(errors="replace")

    def decode_continuation(self, x: str) -> str:
        """Return the text of pieces that continue another text, with the space at its start."""
        return decode_byte_level(x)

    def is_beginning_of_word(self, x: str) -> bool:
        """Return whether a piece begins with a space, as fairseq's own GPT-2 encoder does."""
        return x.startswith(_SPACE)

    def to_json(self) -> str:
        """Return the content of a ``tokenizer.json`` with all added tokens."""
        text: str = self._tokenizer.to_str(pretty=True)
        return text + "\n"

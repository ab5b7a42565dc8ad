"""Texts that are decoded token by token."""

import random

import pytest

from fairtale.data.corpus.byte_level import BYTE_ALPHABET, decode_byte_level
from fairtale.data.corpus.vocabulary import SPACE, decode_pieces
from fairtale.generation.growing_text import GrowingText, text_as_it_grows

BYTES = (0xD0, 0xB6, 0xF0, 0x9F, 0x98, 0x80, 0xEA, 0xB0, 0x80, 0xFF, 0x41)
PIECES = [SPACE, SPACE * 2, SPACE + "a", "b", SPACE + "\u0436", "\uac00", "\ufffd"]
PIECES += [f"<0x{byte:02X}>" for byte in BYTES]
LETTERS = [BYTE_ALPHABET[byte] for byte in (0x20, *BYTES)] + [
    BYTE_ALPHABET[0xD0] + BYTE_ALPHABET[0xB6]
]


def from_pieces(ids):
    pieces = " ".join(PIECES[i] for i in ids)
    return " " + decode_pieces(pieces) if pieces.startswith(SPACE) else decode_pieces(pieces)


def from_letters(ids):
    return decode_byte_level(" ".join(LETTERS[i] for i in ids))


def test_half_characters_wait_for_their_other_half():
    letters = {1: b"a", 2: b"\xd0", 3: b"\xb6", 4: b"!"}

    def decode(tokens):
        return b"".join(letters[t] for t in tokens).decode(errors="replace")

    assert list(text_as_it_grows([1, 2, 3, 4], decode)) == ["a", "\u0436", "!"]
    assert list(text_as_it_grows([], decode)) == []
    # bytes of an incomplete character are shown at the end
    assert "".join(text_as_it_grows([1, 2], decode)) == "a\ufffd"


@pytest.mark.parametrize(("decode", "size"), [(from_pieces, 18), (from_letters, 13)])
def test_the_parts_of_any_tokens_are_their_text(decode, size):
    for seed in range(1500):
        draw = random.Random(seed)
        weights = [draw.random() ** 3 for _ in range(size)]
        ids = draw.choices(range(size), weights, k=draw.choice((3, 6, 12, 80)))
        parts = list(text_as_it_grows(ids, decode))
        assert "".join(parts) == decode(ids)
        assert all(parts)


def test_a_long_text_is_not_decoded_again_and_again():
    lengths = []

    def decode(ids):
        lengths.append(len(ids))
        return from_letters(ids)

    for ids in ([1 + i % 2 for i in range(500)], [10] * 500):  # characters, and no characters
        lengths.clear()
        assert "".join(text_as_it_grows(ids, decode)) == from_letters(ids)
        assert max(lengths) <= 33


def test_space_before_the_first_word_can_be_left_out():
    text = GrowingText(from_pieces, skip_space=True)
    assert [text.add(i) for i in (0, 1, 2, 2, 3)] == ["", "", "a", " a", "b"]
    assert "".join(text_as_it_grows([2, 2], from_pieces, skip_space=True)) == "a a"

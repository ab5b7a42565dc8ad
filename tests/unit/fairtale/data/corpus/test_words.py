"""The number of words of a text, counted from its tokens."""

import random

import pytest
import torch
from fairseq.data import Dictionary

from fairtale.data.corpus.byte_level import BYTE_ALPHABET
from fairtale.data.corpus.words import WordCounter
from tests.helpers import dictionary_of, tiny_dictionary, train_tokenizer

TEXT = (
    "  Once upon\ta time,\n\nthere was «ёлка» —\r\nи  слово \x0b \x0c конец-то.\n😀 a\u00a0b end "
)


def byte_dictionary(*pieces):
    """A dictionary of all bytes and of pieces of several bytes."""
    dictionary = Dictionary()
    for symbol in (*BYTE_ALPHABET, *pieces):
        dictionary.add_symbol(symbol)
    return dictionary


def as_pieces(text):
    return "".join(BYTE_ALPHABET[byte] for byte in text.encode())


def count(dictionary, pieces, cuts=()):
    """The words of a text, summed over the blocks between ``cuts``."""
    target = torch.tensor([*(dictionary.index(p) for p in pieces), dictionary.eos()])
    source = torch.cat([torch.tensor([dictionary.bos()]), target[:-1]])
    counter = WordCounter(dictionary)
    edges = [0, *cuts, len(target)]
    return sum(counter.count(source[a:b], target[a:b]) for a, b in zip(edges, edges[1:]))


def test_bytes_one_by_one():
    pieces = as_pieces(TEXT)
    expected = len(TEXT.encode().split())
    assert count(byte_dictionary(), pieces) == expected
    assert count(byte_dictionary(), pieces, cuts=range(1, len(pieces))) == expected


def test_pieces_of_any_bytes_and_blocks_of_any_length():
    """Pieces may hold several words, only white space, or a part of a character."""
    rng = random.Random(1)
    whole = as_pieces(TEXT)
    for _ in range(50):
        edges = sorted(rng.sample(range(1, len(whole)), rng.randint(1, 30)))
        pieces = [whole[a:b] for a, b in zip([0, *edges], [*edges, len(whole)])]
        dictionary = byte_dictionary(*pieces)
        cuts = sorted(rng.sample(range(1, len(pieces)), rng.randint(0, len(pieces) - 1)))
        assert count(dictionary, pieces, cuts) == len(TEXT.encode().split())


@pytest.mark.parametrize("text", ["", " ", "\n", "word", " word", "word ", "a b", "a\nb"])
def test_short_texts(text):
    assert count(byte_dictionary(), as_pieces(text)) == len(text.split())


def test_sentencepiece(tmp_path):
    lines = ["the cat sat on the mat .", "a dog ran"] * 20
    processor = train_tokenizer(tmp_path / "m.model", lines, 300)
    dictionary = dictionary_of(processor)
    for text in (*lines[:2], "unseen Ёлка words 😀 here"):
        assert count(dictionary, processor.encode(text, out_type=str)) == len(text.split())


def test_words_as_entries_are_words_and_unknown_ones_too():
    assert count(tiny_dictionary(), ["w1", "w2", "new", "w3"]) == 4


def test_text_after_a_special_symbol_begins_a_word():
    """GPT-2 has one symbol for beginning and end."""
    dictionary = byte_dictionary()
    dictionary.bos_index = dictionary.eos_index
    assert count(dictionary, as_pieces("two words")) == 2

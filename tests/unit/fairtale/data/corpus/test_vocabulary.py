"""Bytes of text behind tokens, and text behind pieces."""

import pytest
import torch
from fairseq.data import Dictionary

from fairtale.data.corpus.vocabulary import (
    TOKENIZER_FILE,
    decode_pieces,
    find_tokenizer,
    fingerprint,
    token_bytes,
)
from tests.helpers import dictionary_of, tiny_dictionary, train_tokenizer

TEXTS = [
    "Once upon a time there was a little cat.",
    "a",
    "Tom said: “Stop!” – and so it was… 🐈‍⬛ 🎉🎉",
    "Der Bär läuft über die Straße.",
    "猫は寝ている。 السلام عليكم",
    "x < y and <0xE2> is written out, </s> too",
    "🙂",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / TOKENIZER_FILE
    return train_tokenizer(path, TEXTS[:2] * 5)  # most characters above fall back to bytes


@pytest.fixture(scope="module")
def dictionary(tokenizer):
    return dictionary_of(tokenizer)


def encode(dictionary, pieces):
    return dictionary.encode_line(" ".join(pieces), add_if_not_exist=False).long()


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_are_the_bytes_of_the_text(tokenizer, dictionary, text):
    pieces = tokenizer.encode(text, out_type=str)
    tokens = encode(dictionary, pieces)
    assert dictionary.unk() not in tokens
    # the space that SentencePiece puts before a text stands for the end of the line
    assert token_bytes(dictionary)[tokens].sum() == len((text + "\n").encode())
    # a truncated story counts its remaining bytes, also within a character
    for n in range(1, len(pieces)):
        left = tokens[:n]
        size = sum(
            1 if p.startswith("<0x") else len(p.replace("▁", " ").encode()) for p in pieces[:n]
        )
        assert token_bytes(dictionary)[left].sum() == size


def test_some_texts_need_bytes(tokenizer):
    assert any(p.startswith("<0x") for p in tokenizer.encode("🙂", out_type=str))


def test_words_are_followed_by_a_space_or_a_line_end():
    dictionary = Dictionary()
    text = "über <0xE2> straße"
    tokens = dictionary.encode_line(text).long()
    assert token_bytes(dictionary)[tokens].sum() == len((text + "\n").encode())


def test_marks_are_no_text(dictionary):
    words = tiny_dictionary(3)
    words.pad_to_multiple_(8)
    counts = token_bytes(words)
    assert counts.dtype == torch.int64 and len(counts) == len(words) == 8
    assert counts[[words.bos(), words.pad(), words.eos()]].tolist() == [0, 0, 0]
    assert counts[words.unk()] == 1
    assert counts[4:].tolist() == [3, 3, 3, 0]  # w0, w1, w2 and a filler
    assert token_bytes(dictionary)[dictionary.eos()] == 0


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_become_the_text_again(tokenizer, text):
    pieces = tokenizer.encode(text, out_type=str)
    assert decode_pieces(" ".join(pieces)) == text == tokenizer.decode(pieces)


def test_half_a_character_is_shown_as_such():
    assert decode_pieces("▁a <0xF0> <0x9F>") == "a\ufffd"
    assert decode_pieces("<0x99> ▁b <0x41>") == "\ufffd bA"
    assert decode_pieces("▁a <0xF0> <0x9F> <0x99> <0x82> s") == "a🙂s"
    assert decode_pieces("") == ""


def test_fingerprint_knows_the_order_and_not_the_counts():
    first, same, other = Dictionary(), Dictionary(), Dictionary()
    for dictionary, words in ((first, "ab"), (same, "abb"), (other, "ba")):
        for word in words:
            dictionary.add_symbol(word)
    assert len(first) == len(other)
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    assert fingerprint(tiny_dictionary(3)) != fingerprint(tiny_dictionary(4))


def test_the_first_folder_with_a_tokenizer_wins(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    paths = [str(folder) for folder in folders]
    assert find_tokenizer(paths) is None
    for folder in folders[1:]:
        (folder / TOKENIZER_FILE).touch()
    assert find_tokenizer(paths) == str(folders[1] / TOKENIZER_FILE)

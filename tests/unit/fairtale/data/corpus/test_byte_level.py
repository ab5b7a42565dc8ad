"""The byte alphabet, and text through byte-level BPE and back."""

import random

import pytest

from fairtale.data.corpus.byte_level import (
    BYTE_ALPHABET,
    decode_byte_level,
    is_byte_level,
    piece_bytes,
)
from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.errors import UserError
from tests.byte_level_helpers import TEXTS, described, train_byte_level, write_json


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return load_byte_level(str(train_byte_level(tmp_path_factory.mktemp("bpe"), TEXTS * 2)))


@pytest.fixture(scope="module")
def with_special(tmp_path_factory):
    return load_byte_level(str(write_json(tmp_path_factory.mktemp("special"))))


def test_the_alphabet_is_that_of_gpt2():
    assert len(set(BYTE_ALPHABET)) == 256
    assert all(c.split() == [c] and c.isprintable() for c in BYTE_ALPHABET)
    assert [BYTE_ALPHABET[byte] for byte in b" \n\0\x7f\xad"] == list("ĠĊĀġŃ")
    assert "".join(BYTE_ALPHABET[byte] for byte in "é!".encode()) == "Ã©!"


def test_a_dictionary_is_byte_level_if_it_has_all_bytes():
    assert is_byte_level(["<s>", *BYTE_ALPHABET, "the"])
    assert not is_byte_level(["<s>", *BYTE_ALPHABET[1:], "the"])


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives(bpe, text):
    pieces = bpe.encode(text)
    assert bpe.decode(pieces) == text == bpe.decode_continuation(pieces)
    assert b"".join(map(piece_bytes, pieces.split())) == text.encode()
    assert [bpe.pieces[i] for i in bpe.encode_ids(text)] == pieces.split(" ") * bool(text)
    assert bpe.encode_many([text, "x", text])[2] == pieces.split()


def test_any_text_survives(bpe, with_special):
    draw = random.Random(1)
    kinds = [(0, 0x80), (0, 0x800), (0, 0xD800), (0xE000, 0x110000)]
    for _ in range(2000):
        text = "".join(chr(draw.randrange(*draw.choice(kinds))) for _ in range(draw.randrange(9)))
        text = draw.choice(["", " ", "<|end|>"]) + text + draw.choice(["", "\n", "<|end|>"])
        for encoder in (bpe, with_special):
            assert encoder.decode(encoder.encode(text)) == text


def test_special_tokens_are_not_cut(with_special):
    assert with_special.special_tokens == {"<|end|>": 258}
    assert with_special.encode("the<|end|> th <|end|") == "th e <|end|> Ġth Ġ < | e n d |"
    assert with_special.decode("th <|end|> Ġth") == "th<|end|> th"


def test_special_tokens_of_a_trained_tokenizer_are_never_in_a_text(bpe):
    ids = bpe.encode_ids("<s></s> <pad> <unk>")
    assert bpe.pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"] and min(ids) > 3


def test_incomplete_characters_are_marked(bpe):
    first, second = (BYTE_ALPHABET[byte] for byte in "é".encode())
    assert decode_byte_level(f"a {first} {second} b") == "aéb"
    assert bpe.decode(f"a {first}") == "a\ufffd"
    assert bpe.decode(f"{second} b") == "\ufffdb"
    assert bpe.decode("") == ""


def test_a_prefix_space_is_added_and_removed(tmp_path):
    step = {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    path = write_json(tmp_path, pre_tokenizer={"type": "ByteLevel", **step})
    bpe = load_byte_level(str(path))
    assert bpe.encode("the<|end|>the") == "Ġth e <|end|> Ġth e"
    for text in TEXTS:
        assert bpe.decode(bpe.encode(text)) == text.removeprefix(" ")
    assert bpe.decode(bpe.encode("the<|end|>the")) == "the<|end|>the"
    assert bpe.decode_continuation("Ġth e") == " the"


def test_ids_without_a_token_have_names(tmp_path):
    model = described()["model"]
    model["vocab"]["th"], model["vocab"]["Ġth"] = 257, 259
    bpe = load_byte_level(str(write_json(tmp_path, model=model)))
    assert len(bpe) == 260 and bpe.pieces[256:] == ["madeupword0256", "th", "<|end|>", "Ġth"]


def test_ids_without_a_token_are_no_text(bpe):
    assert bpe.decode("a madeupword0012 b") == decode_byte_level("a madeupword50257 b") == "ab"
    assert bpe.decode(bpe.encode("madeupword0012")) == "madeupword0012"


def test_text_that_is_not_utf8_is_refused(bpe):
    with pytest.raises(UserError, match="not valid UTF-8"):
        bpe.encode("a\udcff")


def test_the_json_has_everything(with_special, tmp_path):
    (tmp_path / "tokenizer.json").write_text(with_special.to_json(), encoding="utf-8")
    again = load_byte_level(str(tmp_path / "tokenizer.json"))
    assert again.pieces == with_special.pieces
    assert again.special_tokens == with_special.special_tokens


def test_pieces_that_begin_a_word(bpe):
    assert bpe.is_beginning_of_word("Ġthe") and not bpe.is_beginning_of_word("the")

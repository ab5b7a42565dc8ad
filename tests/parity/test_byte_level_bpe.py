"""Byte-level BPE beside Hugging Face's GPT-2 tokenizer: equal ids, for folders made either way."""

import random

import pytest

from fairtale.compat.torchaudio import hide_torchaudio
from fairtale.data.corpus.byte_level_files import load_byte_level
from tests.byte_level_helpers import TEXTS, described, train_byte_level, write_json

hide_torchaudio()
transformers = pytest.importorskip("transformers", reason="needs the extra hf")

READERS = ["AutoTokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_byte_level(tmp_path_factory.mktemp("trained"), TEXTS * 3, vocab_size=320)


def texts():
    draw = random.Random(1)
    parts = ["the", " cat", "  ", "\n", "ж", "🐈", "é", "'s", "12", "<|end|>", "</s>", "\x00", "\t"]
    return TEXTS + ["".join(draw.choices(parts, k=draw.randrange(12))) for _ in range(300)]


@pytest.mark.parametrize(
    "reader", ["AutoTokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"]
)
def test_transformers_reads_what_is_trained_here(reader, trained):
    theirs = getattr(transformers, reader).from_pretrained(trained)
    bpe = load_byte_level(str(trained))
    assert theirs.convert_ids_to_tokens(range(len(theirs))) == bpe.pieces
    roles = (theirs.bos_token_id, theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id)
    assert roles == (0, 1, 2, 3)
    for text in texts():
        ids = bpe.encode_ids(text)
        assert theirs(text).input_ids == ids, text
        assert theirs.decode(ids) == text


def test_folders_that_transformers_saves_are_read_here(tmp_path):
    """With added tokens of every kind, and with a space before each text."""
    path = write_json(tmp_path / "one")
    for prefix in (False, True):
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|end|>")
        step = {**described()["pre_tokenizer"], "add_prefix_space": prefix}
        if prefix:
            path = write_json(tmp_path / "two", pre_tokenizer=step)
            theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        theirs.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<x>"]})
        theirs.add_tokens(["tech", "猫は"])
        folder = tmp_path / f"saved{prefix}"
        theirs.save_pretrained(folder)
        bpe = load_byte_level(str(folder))
        assert bpe.pieces == theirs.convert_ids_to_tokens(range(len(theirs)))
        for text in [*texts(), "a<x>b<pad> tech 猫は tech"]:
            assert theirs(text).input_ids == bpe.encode_ids(text), text
            if not prefix:
                assert bpe.decode(bpe.encode(text)) == text


def test_gpt2s_two_files(trained, tmp_path):
    """Files as of 2019, without any other: the class has defaults for the special tokens."""
    for name in ("vocab.json", "merges.txt"):
        text = (trained / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("<pad>", "<|endoftext|>"), encoding="utf-8")
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    bpe = load_byte_level(str(tmp_path))
    assert bpe.special_tokens == {"<|endoftext|>": 1}
    for text in texts():
        assert theirs(text).input_ids == bpe.encode_ids(text), text
    text = "a <|endoftext|> b<s>"
    assert theirs(text).input_ids == bpe.encode_ids(text) and 1 in bpe.encode_ids(text)

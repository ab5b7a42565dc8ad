"""The real GPT-2 tokenizer on every text of the real corpora, beside Hugging Face's."""

import random

import pytest

from fairtale.cli.optional import require_transformers
from fairtale.data.corpus.byte_level_files import load_byte_level

pytestmark = pytest.mark.realdata

_PART = 12_000  # bytes at the beginning, at the middle and at the end of each file
_EVERYTHING = 5  # files that are read in full, with a seed


@pytest.fixture(scope="module")
def ours(realdata):
    return load_byte_level(str(realdata / "tokenizers" / "gpt2"))


@pytest.fixture(scope="module")
def theirs(realdata):
    folder = realdata / "tokenizers" / "gpt2"
    return require_transformers().GPT2TokenizerFast.from_pretrained(folder)


def parts_of(data):
    """Return up to three parts of a file as text, cut between characters."""
    middle = len(data) // 2
    starts = [0] if len(data) <= 3 * _PART else [0, middle, len(data) - _PART]
    size = 3 * _PART if len(starts) == 1 else _PART
    return [data[start : start + size].decode(errors="ignore") for start in starts]


def test_entries_are_equal(ours, theirs):
    assert ours.pieces == theirs.convert_ids_to_tokens(range(50257))
    assert ours.special_tokens == {"<|endoftext|>": 50256}


def test_every_file_has_equal_ids_and_survives(realdata, ours, theirs):
    files = sorted(path for path in realdata.rglob("*") if path.is_file())
    assert len(files) > 200
    small = [path for path in files if path.stat().st_size < 300_000]
    in_full = set(random.Random(1).sample(small, _EVERYTHING))
    num_tokens = 0
    for path in files:
        data = path.read_bytes()
        texts = [data.decode(errors="replace")] if path in in_full else parts_of(data)
        for text, encoding in zip(texts, theirs(texts).input_ids, strict=True):
            ids = ours.encode_ids(text)
            assert ids == encoding, path
            pieces = [ours.pieces[i] for i in ids]
            assert ours.decode(" ".join(pieces)) == text, path
            num_tokens += len(ids)
    assert num_tokens > 1_000_000

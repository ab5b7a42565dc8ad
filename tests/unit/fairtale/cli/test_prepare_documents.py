"""`fairtale prepare documents --tokenizer`: the tokenizer and the dictionary of one model."""

import json

import pytest

from fairtale.cli.model_tokenizer import find_model
from fairtale.data.corpus.byte_level import BYTE_ALPHABET
from fairtale.data.corpus.tokenizer_dictionary import TokenizerDictionary
from fairtale.errors import UserError

PIECES = [*BYTE_ALPHABET, "<|endoftext|>"]


@pytest.fixture
def model(tmp_path):
    """A folder with a tokenizer of single bytes and its dictionary."""
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={piece: i for i, piece in enumerate(BYTE_ALPHABET)}, merges=[])
    )
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(PIECES[-1:])
    bpe.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, PIECES)
    return tmp_path


def write(folder, pieces):
    TokenizerDictionary.with_roles(pieces, {"eos": 0}).save(str(folder / "dict.txt"))


def test_a_folder_and_its_tokenizer_name_the_same_model(model):
    expected = (str(model / "tokenizer.json"), str(model / "dict.txt"))
    assert find_model(str(model)) == find_model(expected[0]) == expected
    write(model, [*PIECES, "madeupword0257"])  # a model may have more entries than the tokenizer
    assert find_model(str(model)) == expected


def test_another_model_s_dictionary_is_refused(model):
    write(model, [*PIECES[:70], *PIECES[:69:-1]])
    with pytest.raises(UserError, match="entry 70 is .* they must be of one model"):
        find_model(str(model))
    write(model, PIECES[:9])
    with pytest.raises(UserError, match="the tokenizer has 257 entries, and dict.txt only 11"):
        find_model(str(model))
    (model / "dict.txt").write_text("no dictionary\n")
    with pytest.raises(UserError, match="dict.txt is not a dictionary"):
        find_model(str(model))


@pytest.mark.parametrize("name", ["tokenizer.json", "dict.txt"])
def test_a_missing_file_is_named(model, name):
    (model / name).unlink()
    with pytest.raises(UserError, match=f"{name} does not exist; give the folder of a model"):
        find_model(str(model))


def test_a_tokenizer_of_another_kind_is_refused(model):
    described = json.loads((model / "tokenizer.json").read_text())
    described["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(UserError):
        find_model(str(model))

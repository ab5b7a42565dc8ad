"""fairtale.data.corpus.tokenizer_dictionary: dictionaries with the ids of a tokenizer."""

from pathlib import Path

import pytest
from fairseq.data import Dictionary

from fairtale.data.corpus.tokenizer_dictionary import (
    TokenizerDictionary,
    num_predicted,
    read_dictionary,
)
from fairtale.errors import UserError

ENTRIES = ["!", "Ġa", "#x", "Ċ", "<|endoftext|>"]


def test_indices_are_ids_and_missing_roles_come_behind() -> None:
    dictionary = TokenizerDictionary.with_roles(ENTRIES, {"eos": 4})
    assert [dictionary.index(entry) for entry in ENTRIES] == [0, 1, 2, 3, 4]
    assert (dictionary.bos(), dictionary.eos()) == (4, 4)
    assert (dictionary.pad(), dictionary.unk(), len(dictionary)) == (5, 6, 7)
    assert num_predicted(dictionary) == 5 and num_predicted(Dictionary()) == 4
    assert dictionary.encode_line("Ġa zzz", add_if_not_exist=False).tolist() == [1, 6, 4]
    assert dictionary.string([0, 1, 4]) == "! Ġa"


def test_padding_is_never_the_end_symbol() -> None:
    dictionary = TokenizerDictionary.with_roles(ENTRIES, {"eos": 4, "pad": 4, "unk": 4})
    assert dictionary.pad() == 5 and dictionary.unk() == 4
    with pytest.raises(ValueError, match="padding needs an entry of its own"):
        TokenizerDictionary(ENTRIES, 5, bos=4, pad=4, eos=4, unk=0)


def test_files_keep_everything(tmp_path: Path) -> None:
    dictionary = TokenizerDictionary.with_roles([*ENTRIES, "<pad>"], {"eos": 4})
    dictionary.add_symbol("Ġa", 3)
    path = tmp_path / "deep" / "dict.txt"
    dictionary.save(str(path))
    again = read_dictionary(str(path))
    assert again == dictionary and again.count == dictionary.count
    assert again[again.pad()] == "<pad>_" and len(again) == 8
    again.save(str(tmp_path / "again.txt"))
    assert (tmp_path / "again.txt").read_bytes() == path.read_bytes()
    # fairseq's own class would give other indices, and refuses the file
    with pytest.raises(ValueError, match="Incorrect dictionary format"):
        Dictionary.load(str(path))


def test_stock_files_stay_stock(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("a 3\nb 2\n")
    assert type(read_dictionary(str(path))) is Dictionary


def test_another_order_or_role_is_another_dictionary() -> None:
    first = TokenizerDictionary.with_roles(ENTRIES, {"eos": 4})
    assert first != TokenizerDictionary.with_roles(ENTRIES, {"eos": 4, "unk": 0})
    assert first != TokenizerDictionary.with_roles([*ENTRIES[1::-1], *ENTRIES[2:]], {"eos": 4})


def test_the_entries_are_fixed() -> None:
    dictionary = TokenizerDictionary.with_roles(ENTRIES, {"eos": 4})
    with pytest.raises(UserError, match="'new' is not an entry"):
        dictionary.add_symbol("new")
    dictionary.finalize()
    dictionary.pad_to_multiple_(8)
    assert len(dictionary) == 7


@pytest.mark.parametrize(
    ("entries", "roles", "message"),
    [
        (["a", "a"], {"eos": 0}, "'a' appears twice"),
        (["a", "b c"], {"eos": 0}, "entry 1 is empty or contains white space"),
        (["a", ""], {"eos": 0}, "entry 1 is empty or contains white space"),
        (["a", "b"], {"eos": 9}, "bos=9: there are 4 entries"),
        (["a", "b"], {}, "no end-of-text symbol"),
    ],
)
def test_wrong_entries_are_refused(entries: list[str], roles: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerDictionary.with_roles(entries, roles)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#tokenizer-ids predicted=2 bos=0 pad=1 eos=0 unk=0\na 0\nb", "cut off"),
        ("#tokenizer-ids predicted=2 bos=0 pad=1 eos=0\na 0\nb 0\n", "the roles"),
        ("#tokenizer-ids predicted=2 bos=0 pad=1 eos=0 unk=0\na 0\nb\n", "line 3"),
        ("#tokenizer-ids predicted=5 bos=0 pad=1 eos=0 unk=0\na 0\nb 0\n", "predicted=5"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dict.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_dictionary(str(tmp_path / "dict.txt"))

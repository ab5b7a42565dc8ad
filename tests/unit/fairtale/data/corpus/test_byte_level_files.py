"""Files of tokenizers: each is loaded exactly, or refused by name."""

import json

import pytest

from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.errors import UserError
from tests.byte_level_helpers import described, write_json

SPLIT = {"pattern": {"Regex": " ?[a-z]+"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def model(**changes):
    return {"model": {**described()["model"], **changes}}


def token(content="<|end|>", index=258, **changes):
    return {"added_tokens": [{**described()["added_tokens"][0], **changes}
            | {"content": content, "id": index}]}  # fmt: skip


def without(*pieces):
    return {k: v for k, v in described()["model"]["vocab"].items() if k not in pieces}


REFUSED = {
    "its model is WordPiece": model(type="WordPiece"),
    "end_of_word_suffix '</w>'": model(end_of_word_suffix="</w>"),
    "continuing_subword_prefix '##'": model(continuing_subword_prefix="##"),
    "dropout 0.1": model(dropout=0.1),
    "byte_fallback True": model(byte_fallback=True),
    "1 of the 256 bytes have no entry, such as 0x00": model(vocab=without("Ā")),
    "its normalizer NFC changes the text": {"normalizer": {"type": "NFC"}},
    "its normalizer Sequence changes": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}
    },
    "its pre_tokenizer is Whitespace": {"pre_tokenizer": {"type": "Whitespace"}},
    "its pre_tokenizer is None": {"pre_tokenizer": None},
    "its pre_tokenizer has the step Split (Removed)": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split", **SPLIT, "behavior": "Removed"}, BYTES],
        }
    },
    "adds a space to every part": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits"}, {**BYTES, "add_prefix_space": True}],
        }
    },
    "'<a b>' (id 259) contains white space": token("<a b>", 259),
    "'<|end|>' (id 258) removes white space": token(lstrip=True),
    "'éé' (id 259) may also be read as a piece of other bytes": token("éé", 259),
    "two of its pieces have the same id": model(vocab={**described()["model"]["vocab"], "x": 1}),
    "its 259 pieces have ids from 0 to 4000000000": model(
        vocab={**described()["model"]["vocab"], "th": 4_000_000_000}
    ),
    "it changes text": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**BYTES, "add_prefix_space": True, "use_regex": True}],
        }
    },
    "the added token '<|end|>' has the id 7, and 258": token(index=7),
    "entry 259, 'a b', is empty or contains white space": model(
        vocab={**described()["model"]["vocab"], "a b": 259}
    ),
    "its normalizer is 'NFC'": {"normalizer": "NFC"},
    "its pre_tokenizer is [1]": {"pre_tokenizer": [1]},
    "its pre_tokenizer is {'pretokenizers': 5}": {"pre_tokenizer": {"pretokenizers": 5}},
    "its pre_tokenizer is {'pretokenizers': [5]}": {"pre_tokenizer": {"pretokenizers": [5]}},
    "the tokenizers library refuses it": {"pre_tokenizer": {**BYTES, "use_regex": 1}},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_change_text_is_refused(reason, tmp_path):
    path = write_json(tmp_path, **REFUSED[reason])
    with pytest.raises(UserError) as error:
        load_byte_level(str(path))
    assert reason in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 1}', "{", "\xff"])
def test_what_is_no_tokenizer_is_refused(text, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="tokenizer.json: not "):
        load_byte_level(str(path))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such tokenizer"):
        load_byte_level(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="vocab.json is missing, and there is no tokenizer.json"):
        load_byte_level(str(tmp_path))
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match="merges.txt is missing"):
        load_byte_level(str(tmp_path))


def test_limits_of_length_have_no_effect(tmp_path):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert load_byte_level(str(write_json(tmp_path, truncation=cut))).decode("a b c d") == "abcd"
    assert load_byte_level(str(write_json(tmp_path, truncation=cut))).encode("abcd") == "a b c d"


def test_other_ways_to_split_are_kept(tmp_path):
    steps = [{"type": "Split", **SPLIT}, BYTES]
    path = write_json(tmp_path, pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    bpe = load_byte_level(str(path))
    assert bpe.encode("the 12") == "th e Ġ 1 2" and bpe.decode("th e Ġ 1") == "the 1"


# ---------------------------------------------------------------------- folders of models


def folder_of_two(folder, **files):
    """Write vocab.json, merges.txt and JSON files."""
    (folder / "vocab.json").write_text(json.dumps(described()["model"]["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nĠ th\n")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def test_two_files_are_the_same_tokenizer(tmp_path):
    one = load_byte_level(str(write_json(tmp_path / "one")))
    two = load_byte_level(folder_of_two(tmp_path, special_tokens_map={"eos_token": "<|end|>"}))
    assert two.pieces == one.pieces and two.special_tokens == one.special_tokens
    assert two.encode("the<|end|> th") == one.encode("the<|end|> th") == "th e <|end|> Ġth"
    (tmp_path / "three").mkdir()
    three = load_byte_level(folder_of_two(tmp_path / "three"))
    assert three.special_tokens == {} and len(three.encode("<|end|>").split()) == 7


@pytest.mark.parametrize("with_json", [False, True])
def test_added_tokens_have_the_ids_of_the_files(with_json, tmp_path):
    decoder = {"259": {"content": "<one>", "special": True}, "260": {"content": "<two>"}}
    config = {"added_tokens_decoder": decoder, "bos_token": "<one>", "eos_token": "<|end|>"}
    folder = folder_of_two(tmp_path, tokenizer_config=config)
    if with_json:
        write_json(tmp_path)
    bpe = load_byte_level(folder)
    assert bpe.pieces[258:] == ["<|end|>", "<one>", "<two>"]
    assert bpe.encode("a<two><one>") == "a <two> <one>"
    (tmp_path / "added_tokens.json").write_text('{"<two>": 300}')
    config = {"bos_token": "<one>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="'<one>' has no id in the vocabulary"):
        load_byte_level(folder)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="'<two>' has no id in the vocabulary, or another one"):
        load_byte_level(folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"tokenizer_class": "CLIPTokenizer"}, "tokenizer_class is CLIPTokenizer"),
        ({"bos_token": {"content": "<|end|>", "rstrip": True}}, "removes white space"),
        ([], "not a JSON object"),
        ({"bos_token": 5}, "tokenizer_config.json: 5 is not a special token"),
        ({"bos_token": {"content": []}}, "tokenizer_config.json: {'content': .* is not a special"),
        ({"additional_special_tokens": 5}, "additional_special_tokens is 5, not a list"),
        ({"additional_special_tokens": [[]]}, r"\[\] is not a special token"),
        ({"extra_special_tokens": "ab"}, "extra_special_tokens is 'ab', not a list"),
        ({"added_tokens_decoder": 5}, "added_tokens_decoder is 5, not a list"),
        ({"added_tokens_decoder": {"7": {}}}, "{} is not a special token"),
        ({"added_tokens_decoder": {"x": {"content": "<q>"}}}, "'<q>' has the id 'x'"),
    ],
)
def test_other_folders_are_refused(config, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        load_byte_level(folder_of_two(tmp_path, tokenizer_config=config))


def test_pieces_of_another_kind_are_refused(tmp_path):
    folder = folder_of_two(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({**described()["model"]["vocab"], "x": 1}))
    with pytest.raises(UserError, match="vocab.json: two of its pieces have the same id"):
        load_byte_level(folder)
    vocabulary = {**described()["model"]["vocab"], "th</w>": 259}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match="end with </w>"):
        load_byte_level(folder)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match="lacks some of the 256 bytes"):
        load_byte_level(folder)
    folder_of_two(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth q\n")
    with pytest.raises(UserError, match="merges.txt: the tokenizers library refuses it"):
        load_byte_level(folder)

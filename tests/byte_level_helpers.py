"""Tiny byte-level tokenizers, and texts that are hard for tokenizers."""

import json

from fairtale.cli.main import run_verb
from fairtale.data.corpus.byte_level import BYTE_ALPHABET

TEXTS = [
    "",
    " ",
    "the cat ran  to the\tcat",
    "\n\n the cat \r\n\x00\x0b\x1c\x85\u2028 \n",
    "Привет, мир! 'S it's 12 345",
    "🐈‍⬛ 🎉🎉 猫は é e\u0301 ﬁ \ufffd \ufeff\uffff",
    "<s> </s> <pad> <unk> <CTX><SEP> <|endoftext|>",
    "Ġ Ċ ĠthÐ madeupword0001 ▁a <0xE2>",
]


def train_byte_level(folder, texts, *options, vocab_size=300):
    """Train a tokenizer as ``fairtale bpe train`` does; return its folder."""
    folder.mkdir(exist_ok=True)
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = [path, "--output", folder, "--vocab-size", vocab_size, "--quiet", *options]
    assert run_verb(["bpe", "train", *map(str, words)]) == 0
    path.unlink()
    return folder


def described(**changes):
    """Return a small tokenizer.json like GPT-2's, with changed parts."""
    vocabulary = {character: index for index, character in enumerate(BYTE_ALPHABET)}
    vocabulary.update({"th": 256, "Ġth": 257, "<|end|>": 258})
    step = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 258, "content": "<|end|>", **token, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **step},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **step},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [["t", "h"], ["Ġ", "th"]],
        },
        **changes,
    }


def write_json(folder, name="tokenizer.json", **changes):
    """Write :func:`described` to a file; return its path."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(described(**changes)), encoding="utf-8")
    return path

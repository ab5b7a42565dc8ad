"""Load a byte-level BPE tokenizer from files, and refuse what would not be byte-exact.

Hugging Face's ``tokenizer.json`` describes many kinds of tokenizers. Only those that split the
UTF-8 bytes of a text without changing them are accepted; everything else is refused by name.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import UserError
from .byte_level import BYTE_ALPHABET, ByteLevelBPE, is_byte_level, piece_bytes

TOKENIZER_JSON = "tokenizer.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
CONFIG, SPECIAL_MAP, ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# GPT-2's own classes split text alike; others that have the same two files do not (CLIP).
_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_ROLES = tuple(f"{role}_token" for role in "bos eos unk pad sep cls mask".split())
_GPT2_TOKEN = "<|endoftext|>"  # GPT2Tokenizer's default for bos, eos and unk
# text that must survive: every kind of white space, NUL, quotes and characters of 1 to 4 bytes
_PROBE = (
    " a  b\n\n\r\n\t\x00\x0b\x85\u00a0\u2028\u3000it's 'S 12 é e\u0301 ﬁ Å № € \U0001f600 \u200b "
)


def load_byte_level(path: str) -> ByteLevelBPE:
    """Load a ``tokenizer.json``, or a folder with one or with ``vocab.json`` and ``merges.txt``.

    In a folder, special tokens that ``tokenizer_config.json`` and ``special_tokens_map.json`` name
    are added, as transformers does.

    Args:
        path: the file or folder.

    Raises:
        UserError: a file is missing or damaged, or the tokenizer is not byte-level BPE, or it
            would change text.
    """
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such tokenizer; give a tokenizer.json or its folder")
        return _finished(*_from_json(path), path)
    if os.path.isfile(os.path.join(path, TOKENIZER_JSON)):
        file = os.path.join(path, TOKENIZER_JSON)
        tokenizer, vocabulary = _from_json(file)
    else:
        file = os.path.join(path, VOCABULARY)
        tokenizer, vocabulary = _from_two_files(path)
    _add_special_tokens(tokenizer, path)
    return _finished(tokenizer, vocabulary, file)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError("tokenizers is not installed; run: pip install 'fairtale[hf]'") from None
    return tokenizers


def _read_json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (ValueError, RecursionError) as error:  # also for bad UTF-8
        raise UserError(f"{path}: not valid JSON ({error}); copy it again") from None


# ------------------------------------------------------------------------- tokenizer.json


def _from_json(path: str) -> tuple[Any, Mapping[str, int]]:
    """Return the ``tokenizers.Tokenizer`` of a file, and the vocabulary of its model."""
    described = _read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("model"), dict):
        raise UserError(f"{path}: not a file of the tokenizers library (it has no model)")
    faults = [*_model_faults(described["model"]), *_split_faults(described)]
    if faults:
        raise UserError(f"{path}: not byte-level BPE as of GPT-2: {'; '.join(faults)}")
    try:
        tokenizer = _library().Tokenizer.from_str(json.dumps(described))
    except UserError:
        raise
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"{path}: the tokenizers library refuses it: {error}") from None
    for token in described.get("added_tokens") or []:
        found = tokenizer.token_to_id(token["content"])
        if found != token.get("id"):
            raise UserError(
                f"{path}: the added token {token['content']!r} has the id {token.get('id')}, and "
                f"{found} in the vocabulary; save the tokenizer again with transformers"
            )
    return tokenizer, described["model"]["vocab"]


def _model_faults(model: Mapping[str, Any]) -> Iterator[str]:
    if model.get("type") != "BPE":
        yield f"its model is {model.get('type')}"
        return
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "byte_fallback"):
        if model.get(name):
            yield f"its model has {name} {model[name]!r}"
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict):
        yield "its model has no vocab"
    elif not is_byte_level(vocabulary):
        missing = [f"0x{byte:02X}" for byte, c in enumerate(BYTE_ALPHABET) if c not in vocabulary]
        yield f"{len(missing)} of the 256 bytes have no entry, such as {missing[0]}"
    elif fault := _id_fault(vocabulary):
        yield fault


def _id_fault(vocabulary: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the ids, or None. Gaps are allowed, as long as they are few."""
    ids = list(vocabulary.values())
    if not all(type(index) is int for index in ids):
        return "its ids are not whole numbers"
    if len(set(ids)) != len(ids):
        return "two of its pieces have the same id"
    if min(ids) < 0 or max(ids) >= 2 * len(ids):
        return f"its {len(ids)} pieces have ids from {min(ids)} to {max(ids)}"
    return None


def _split_faults(described: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the steps before the model."""
    normalizer = described.get("normalizer")
    if not isinstance(normalizer, dict | None):
        yield f"its normalizer is {reprlib.repr(normalizer)}"
    elif normalizer and normalizer.get("normalizers") != []:
        yield f"its normalizer {normalizer.get('type')} changes the text"
    splitter = described.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", [splitter]) if isinstance(splitter, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        yield f"its pre_tokenizer is {reprlib.repr(splitter)}"
        return
    *before, last = steps or [{}]
    if last.get("type") != "ByteLevel":
        yield f"its pre_tokenizer is {last.get('type')}, not ByteLevel"
    elif before and last.get("add_prefix_space", True):
        yield "its pre_tokenizer adds a space to every part of the text (add_prefix_space)"
    for step in before:
        kind, behavior = step.get("type"), step.get("behavior", "Isolated")
        if kind not in ("Split", "Digits", "Punctuation") or behavior == "Removed":
            yield f"its pre_tokenizer has the step {kind} ({behavior}), which may change the text"


# ------------------------------------------------------------------ vocab.json, merges.txt


def _from_two_files(folder: str) -> tuple[Any, Mapping[str, int]]:
    paths = [os.path.join(folder, name) for name in (VOCABULARY, MERGES)]
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(
                f"{folder}: {os.path.basename(path)} is missing, and there is no {TOKENIZER_JSON}"
            )
    vocabulary = _read_json(paths[0])
    if not isinstance(vocabulary, dict) or not is_byte_level(vocabulary):
        raise UserError(f"{paths[0]}: not a byte-level vocabulary: it lacks some of the 256 bytes")
    if fault := _id_fault(vocabulary):
        raise UserError(f"{paths[0]}: {fault}")
    config = _config(folder, CONFIG)
    kind = config.get("tokenizer_class", _CLASSES[0])
    if kind not in _CLASSES:
        raise UserError(
            f"{folder}: tokenizer_class is {kind}, and without {TOKENIZER_JSON} only "
            f"{_CLASSES[0]} is known; save the tokenizer again with transformers"
        )
    if any(piece.endswith("</w>") for piece in vocabulary):
        raise UserError(f"{paths[0]}: its pieces end with </w>: not byte-level BPE as of GPT-2")
    library = _library()
    try:
        tokenizer = library.Tokenizer(library.models.BPE.from_file(*paths))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"{paths[1]}: the tokenizers library refuses it: {error}") from None
    prefix = bool(config.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer, vocabulary


def _config(folder: str, name: str) -> dict[str, Any]:
    path = os.path.join(folder, name)
    found = _read_json(path) if os.path.isfile(path) else {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object")
    return found


def _add_special_tokens(tokenizer: Any, folder: str) -> None:
    """Add the special tokens that the other files of a folder name, as transformers does.

    With ``split_special_tokens``, transformers never looks for them in a text, and nothing is
    added.

    Raises:
        UserError: a token has no id, or another one than a file says.
    """
    config, special = _config(folder, CONFIG), _config(folder, SPECIAL_MAP)
    if config.get("split_special_tokens"):
        return
    tokens: dict[str, Any] = {}
    ids = dict(_config(folder, ADDED))
    for index, token in _entries(config, "added_tokens_decoder", os.path.join(folder, CONFIG)):
        fields = _fields(token, os.path.join(folder, CONFIG))
        tokens[fields["content"]] = fields
        ids[fields["content"]] = int(index) if str(index).isdecimal() else index
    for content, index in ids.items():
        if type(index) is not int:
            raise UserError(f"{folder}: the added token {content!r} has the id {index!r}")
        tokens.setdefault(content, {})
    for source, name in ((special, SPECIAL_MAP), (config, CONFIG)):
        path = os.path.join(folder, name)
        more = "additional_special_tokens"
        more = more if source.get(more) else "extra_special_tokens"
        for token in [
            *(source.get(role) for role in _ROLES),
            *(token for _, token in _entries(source, more, path)),
        ]:
            if token is not None and token != "":
                fields = _fields(token, path)
                tokens.setdefault(fields["content"], {**fields, "special": True})
    has_json = os.path.isfile(os.path.join(folder, TOKENIZER_JSON))
    if not has_json and tokenizer.token_to_id(_GPT2_TOKEN) is not None:
        if not any(source.get(role) for source in (special, config) for role in _ROLES[:3]):
            tokens.setdefault(_GPT2_TOKEN, {"special": True})
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    new = [content for content in tokens if content not in known]
    for content in sorted(new, key=lambda content: ids.get(content, -1)):
        index = tokenizer.token_to_id(content)
        index = tokenizer.get_vocab_size() if index is None and content in ids else index
        if index is None or ids.get(content, index) != index:
            raise UserError(
                f"{folder}: the special token {content!r} has no id in the vocabulary, or another "
                "one; save the tokenizer again with transformers"
            )
        _add(tokenizer, content, tokens[content])


def _entries(source: Mapping[str, Any], key: str, path: str) -> list[tuple[Any, Any]]:
    """Return the items of a list or an object in a file; none if it is missing."""
    found = source.get(key) or []
    if not isinstance(found, list | dict):
        raise UserError(f"{path}: {key} is {reprlib.repr(found)}, not a list of tokens")
    return list(found.items() if isinstance(found, dict) else enumerate(found))


def _fields(token: Any, path: str) -> dict[str, Any]:
    """Return the settings of a special token, which a file gives as text or as an object."""
    fields = token if isinstance(token, dict) else {"content": token}
    if not isinstance(fields.get("content"), str):
        raise UserError(
            f"{path}: {reprlib.repr(token)} is not a special token; save the tokenizer again with "
            "transformers"
        )
    return fields


def _add(tokenizer: Any, content: str, fields: Mapping[str, Any]) -> None:
    flags = {name: bool(fields.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    is_special = bool(fields.get("special", True))
    token = _library().AddedToken(content, normalized=False, special=is_special, **flags)
    if is_special:
        tokenizer.add_special_tokens([token])
    else:
        tokenizer.add_tokens([token])


# ---------------------------------------------------------------------------- last checks


def _finished(tokenizer: Any, vocabulary: Mapping[str, int], path: str) -> ByteLevelBPE:
    """Return the encoder, after checks of its entries and of its effect on text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for index, token in tokenizer.get_added_tokens_decoder().items():
        name = f"{path}: the special token {token.content!r} (id {index})"
        if token.content.split() != [token.content]:
            raise UserError(f"{name} contains white space, which separates the pieces of a line")
        if token.lstrip or token.rstrip:
            raise UserError(f"{name} removes white space beside it (lstrip, rstrip)")
        if not token.content.isascii() and piece_bytes(token.content) != token.content.encode():
            raise UserError(f"{name} may also be read as a piece of other bytes")
    for piece, index in vocabulary.items():
        if piece.split() != [piece]:
            raise UserError(f"{path}: entry {index}, {piece!r}, is empty or contains white space")
    encoder = ByteLevelBPE(tokenizer, path)
    text = encoder.decode(encoder.encode(f"x{_PROBE}"))
    if text != f"x{_PROBE}":
        raise UserError(f"{path}: it changes text: {_PROBE!r} is decoded as {text[1:]!r}")
    return encoder

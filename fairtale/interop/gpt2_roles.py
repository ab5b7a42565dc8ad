"""Special tokens of a Hugging Face folder: which ids begin and end a text, pad, or are unknown."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import Any

from ..data.corpus.byte_level import ByteLevelBPE
from ..errors import UserError
from .gpt2_config import CONFIG, GENERATION_CONFIG, read_json_object

ROLES = ("bos", "eos", "pad", "unk")
TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"
_DEFAULT = 50256  # id of bos and eos in a config.json that has none


def special_ids(
    folder: str, tokenizer: ByteLevelBPE, vocab_size: int, given: Mapping[str, int]
) -> dict[str, int]:
    """Return the ids of special tokens by role; ``eos`` is always there.

    ``config.json`` and ``generation_config.json`` give ids, and ``tokenizer_config.json`` and
    ``special_tokens_map.json`` tokens. All files that say something about a role must agree. An
    unknown token that has another role, too, is left out: byte-level BPE does not need one.

    Args:
        folder: the folder.
        tokenizer: its tokenizer.
        vocab_size: V of the model.
        given: ids by role that the user has given, which count instead of the files.

    Raises:
        UserError: files contradict each other; an id or a token is not in the embedding; or
            nothing says which token ends a text.
    """
    said = {
        role: ({f"--{role}-token-id": given[role]} if role in given else _said(folder, role))
        for role in ROLES
    }
    ids = {}
    for role, sources in said.items():
        found = {
            source: _as_id(value, tokenizer, source, role) for source, value in sources.items()
        }
        _check(folder, role, found, sources, tokenizer, vocab_size)
        if found:
            ids[role] = next(iter(found.values()))
    if "eos" not in ids:
        endings = [tokenizer.pieces[i] for i in tokenizer.special_tokens.values()]
        raise UserError(
            f"{folder}: no file says which token ends a text: give --eos-token-id (special tokens: "
            f"{', '.join(endings) or 'none'})"
        )
    if ids.get("unk") in [ids.get(role) for role in ("bos", "eos", "pad")]:
        ids.pop("unk", None)
    return ids


def _said(folder: str, role: str) -> dict[str, Any]:
    """Return what each file says about a role: an id, or a token."""
    said = {}
    for name, key in (
        (CONFIG, f"{role}_token_id"),
        (GENERATION_CONFIG, f"{role}_token_id"),
        (TOKENIZER_CONFIG, f"{role}_token"),
        (SPECIAL_TOKENS_MAP, f"{role}_token"),
    ):
        path = os.path.join(folder, name)
        value = read_json_object(path).get(key) if os.path.isfile(path) else None
        is_token = key.endswith("_token")
        if is_token and isinstance(value, dict) and "content" in value:  # with its settings
            value = value["content"]
        if not is_token and isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is not None:
            if isinstance(value, str) != is_token:
                kind = "a token" if is_token else "the id of one token"
                raise UserError(
                    f"{path}: {key} is {reprlib.repr(value)}, not {kind}: {_remedy(role)}"
                )
            said[name] = value
    return said


def _remedy(role: str) -> str:
    return f"correct the file, or give --{role}-token-id"


def _as_id(value: Any, tokenizer: ByteLevelBPE, source: str, role: str) -> int:
    if isinstance(value, str):
        if value not in tokenizer.pieces:
            raise UserError(
                f"{source}: its {role}_token {value!r} is not in the tokenizer: {_remedy(role)}"
            )
        return tokenizer.pieces.index(value)
    if type(value) is not int or value < 0:
        shown = reprlib.repr(value)
        raise UserError(f"{source}: {role} is {shown}, not the id of one token: {_remedy(role)}")
    return value


def _check(
    folder: str,
    role: str,
    found: Mapping[str, int],
    sources: Mapping[str, Any],
    tokenizer: ByteLevelBPE,
    vocab_size: int,
) -> None:
    for source, index in found.items():
        if index >= vocab_size:
            raise UserError(
                f"{folder}: {role} is {sources[source]!r} in {source}, which is outside of the "
                f"embedding of {vocab_size} entries: {_remedy(role)}"
            )
    if len(set(found.values())) > 1:
        pieces = tokenizer.pieces
        shown = [
            f"{index} ({pieces[index] if index < len(pieces) else 'no token'}) in {source}"
            for source, index in found.items()
        ]
        raise UserError(f"{folder}: {role} is {', but '.join(shown)}: {_remedy(role)}")

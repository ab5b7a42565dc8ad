"""Count the bytes of a text before a tokenizer normalised it, for bits per byte.

A vocabulary knows the bytes of its pieces. They are the bytes of the text itself unless the
tokenizer normalises Unicode first: ``nmt_nfkc`` makes one space of a zero-width non-joiner, and so
on. A data folder whose tokenizer does so has the file :data:`FILE`, with the bytes of each split
before and after.
"""

import json
import os
from collections.abc import Callable, Iterable

import torch
from fairseq.data import Dictionary

from ...errors import UserError
from .vocabulary import SPACE, token_bytes

FILE = "original_bytes.json"


def count_bytes(lines: Iterable[str], normalize: Callable[[str], str]) -> tuple[int, int]:
    """Return the bytes of lines before and after normalisation, each with its line end.

    Args:
        lines: the texts.
        normalize: SentencePiece's normaliser.
    """
    before = after = 0
    for line in lines:
        before += len(line.encode()) + 1
        after += len(normalize(line).replace(SPACE, " ").strip().encode()) + 1
    return before, after


def write_counts(folder: str, counts: dict[str, tuple[int, int]]) -> None:
    """Write the counts of each split to a data folder."""
    with open(os.path.join(folder, FILE), "w", encoding="utf-8") as stream:
        json.dump(counts, stream)


def original_bytes(dictionary: Dictionary, folders: Iterable[str], split: str) -> torch.Tensor:
    """Return how many bytes of original text each entry stands for, float64 or int64 [V].

    They are those of :func:`token_bytes`, scaled so that the bytes of the whole split are right.

    Args:
        dictionary: fairseq's dictionary.
        folders: the data folders of the split.
        split: name of the split, such as ``valid`` or ``train1``.

    Raises:
        UserError: a file of counts is damaged.
    """
    before = after = 0
    for folder in folders:
        path = os.path.join(folder, FILE)
        if os.path.isfile(path):
            try:
                with open(path, encoding="utf-8") as stream:
                    counts = json.load(stream).get(split, (0, 0))
                before, after = before + int(counts[0]), after + int(counts[1])
            except (ValueError, TypeError, LookupError, AttributeError):
                raise UserError(f"{path}: damaged; prepare the data again") from None
    sizes = token_bytes(dictionary)
    return sizes if before == after else sizes * (before / max(1, after))

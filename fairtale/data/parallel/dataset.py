"""Find the languages and the tokenizer of binarised pairs, and mark the pairs to score."""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, LanguagePairDataset, data_utils

from ...errors import UserError
from ...interfaces import Batch, ParallelBatch
from ..corpus.arrays import Ints
from ..corpus.sized_dataset import no_batch
from ..corpus.vocabulary import find_tokenizer

DEFAULT_PAIR = ("en", "ru")
_SPLIT = re.compile(r"[^.]+\.([^.-]+)-([^.-]+)\.[^.]+\.idx")
_DICTIONARY = re.compile(r"dict\.([^.]+)\.txt")


def find_pair(folder: str, source: str | None, target: str | None) -> tuple[str, str]:
    """Return the source and the target language, inferred from the data folder if not given.

    Args:
        folder: the binarised data.
        source, target: the languages that are given.

    Raises:
        UserError: the folder holds several language pairs that match.
    """
    if source and target:
        return source, target
    names = os.listdir(folder) if os.path.isdir(folder) else []
    pairs = sorted({(m[1], m[2]) for m in map(_SPLIT.fullmatch, names) if m})
    if not pairs:  # the folder may hold only dictionaries, which suffice to translate
        languages = sorted(m[1] for m in map(_DICTIONARY.fullmatch, names) if m)
        pairs = [(languages[0], languages[1])] if len(languages) == 2 else []
        pairs = [DEFAULT_PAIR] if pairs == [tuple(sorted(DEFAULT_PAIR))] else pairs
    given = source or target
    if given:
        others = sorted({lang for pair in pairs if given in pair for lang in pair} - {given})
        others = others or [lang for lang in DEFAULT_PAIR if lang != given][-1:]
        if len(others) == 1:
            return (given, others[0]) if source else (others[0], given)
    elif len(pairs) <= 1:
        return pairs[0] if pairs else DEFAULT_PAIR
    elif any(sorted(pair) == sorted(DEFAULT_PAIR) for pair in pairs):
        return DEFAULT_PAIR
    found = ", ".join("-".join(pair) for pair in pairs)
    raise UserError(f"{folder} holds several language pairs ({found}): choose one with -s and -t")


def find_pieces(paths: Sequence[str], source_lang: str) -> str | None:
    """Return the path of the tokenizer for source text, or None.

    The joint tokenizer of both languages takes precedence over a SentencePiece model of the source
    language.

    Raises:
        UserError: a folder has two tokenizers.
    """
    joint = find_tokenizer(paths)
    if joint is not None:
        return joint
    for path in paths:
        candidate = os.path.join(path, f"sentencepiece.bpe.{source_lang}.model")
        if os.path.isfile(candidate):
            return candidate
    return None


def check_sides(paths: Iterable[str], split: str, pair: tuple[str, str]) -> None:
    """Check that the two sides of a split have the same number of sentences.

    Raises:
        UserError: the numbers differ.
    """
    for path in paths:
        for name in (f"{split}.{'-'.join(pair)}", f"{split}.{'-'.join(reversed(pair))}"):
            sides = [
                data_utils.load_indexed_dataset(os.path.join(path, f"{name}.{lang}"), None)
                for lang in pair
            ]
            if None not in sides and len(sides[0]) != len(sides[1]):
                raise UserError(
                    f"{path}/{name}: {len(sides[0])} {pair[0]} and {len(sides[1])} {pair[1]} "
                    "sentences; run prepare.sh again, which reports where the texts diverge"
                )


class ScoredPairs(BaseWrapperDataset):
    """A dataset of pairs that marks ``count`` of them in its batches: ``scored``, bool [B].

    The marked pairs are always the same ones. They are spread evenly over the split, so that
    each of several concatenated corpora is represented.
    """

    def __init__(self, pairs: LanguagePairDataset, count: int) -> None:
        super().__init__(pairs)
        self.scored = np.zeros(len(pairs), dtype=bool)
        count = min(count, len(pairs))
        self.scored[np.arange(count) * len(pairs) // max(count, 1)] = True

    @property
    def src(self) -> Any:
        """The sources of the pairs, under the name that fairseq's tasks use."""
        return self.dataset.src

    @property
    def tgt(self) -> Any:
        """The targets of the pairs, under the name that fairseq's tasks use."""
        return self.dataset.tgt

    def num_tokens_vec(self, indices: Ints) -> Ints:
        """Return the number of tokens of each of several pairs, int [len(indices)]."""
        sizes: Ints = self.dataset.num_tokens_vec(indices)
        return sizes

    def collater(self, samples: list[dict[str, Any]], **options: Any) -> ParallelBatch:
        """Merge pairs as fairseq does, and add the mask ``scored``."""
        batch: ParallelBatch = self.dataset.collater(samples, **options)
        if not batch:
            return no_batch()
        batch["scored"] = torch.from_numpy(self.scored[batch["id"].numpy()])
        return batch


def select_scored(sample: ParallelBatch, pad: int) -> Batch | None:
    """Return the marked rows of a batch as a batch to translate, or None if there are none.

    Columns of ``src_tokens`` that hold only padding in these rows are removed.
    """
    scored = sample.get("scored")
    if scored is None or not scored.any():
        return None
    target = sample["target"]
    assert target is not None  # only pairs with a target are marked
    tokens = sample["net_input"]["src_tokens"][scored]
    return {
        "id": sample["id"][scored],
        "net_input": {
            "src_tokens": tokens[:, tokens.ne(pad).any(0)],
            "src_lengths": sample["net_input"]["src_lengths"][scored],
        },
        "target": target[scored],
    }

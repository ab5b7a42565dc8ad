"""Filter the pairs of a parallel corpus, and choose those that are held out for validation."""

import hashlib
from array import array
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from ..corpus.arrays import Bools
from ..corpus.entities import unescape, without_markup
from ..corpus.lengths import count_words
from ..corpus.report import TOO_LONG
from .text import LanguageText, clean_line

# Reasons to leave out a pair, besides TOO_LONG and DUPLICATE.
EMPTY_SIDE, RATIO, SAME = "a side empty", "unequal lengths", "same on both sides"

# What is done with tags and entities; see PairCleaner.
MARKUP_RULES = ("entities", "clean", "keep")

Digests = npt.NDArray[np.uint64]

# A line of at most this many words may occur in training and in a test set by chance.
MAX_COMMON_WORDS = 3


class CleanPair(NamedTuple):
    """A pair that is kept: its tokens, separated by spaces, and its text before tokenisation."""

    source_tokens: str
    target_tokens: str
    source: str
    target: str


@dataclass(frozen=True)
class PairCleaner:
    """Clean and tokenise pairs, and decide which are kept.

    Args:
        source, target: the tokenizer of each side.
        max_words: maximum number of tokens of a side.
        max_ratio: maximum ratio of the lengths of the longer and the shorter side, in tokens.
        markup: ``clean`` replaces entities and removes tags; ``entities`` only the former;
            ``keep`` neither.

    The length of a side is its number of tokens; in scripts without spaces, such as Chinese or
    Thai, it is estimated from the number of characters (:func:`count_words`).
    """

    source: LanguageText
    target: LanguageText
    max_words: int
    max_ratio: float
    markup: str = "entities"

    def __call__(self, source: str, target: str) -> CleanPair | str:
        """Return the cleaned pair, or the reason why it is left out."""
        if self.markup != "keep":
            replace = without_markup if self.markup == "clean" else unescape
            source, target = replace(source), replace(target)
        lines = clean_line(source), clean_line(target)
        if not all(lines):
            return EMPTY_SIDE
        if lines[0] == lines[1] and any(map(str.isalpha, lines[0])):
            return SAME
        # Tokenisation is slow, so a pair that already has too many words is not tokenised.
        if max(line.count(" ") for line in lines) >= self.max_words:
            return TOO_LONG
        tokens = self.source.tokenize(lines[0]), self.target.tokenize(lines[1])
        short, long = sorted(map(count_words, tokens))
        if not all(tokens):
            return EMPTY_SIDE
        if long > self.max_words:
            return TOO_LONG
        if long > self.max_ratio * short:
            return RATIO
        return CleanPair(*tokens, *lines)


# ------------------------------------------------------- duplicates and held-out pairs


def digest(text: str) -> int:
    """Return a 64-bit hash of the case-folded text."""
    return int.from_bytes(hashlib.blake2b(text.casefold().encode(), digest_size=8).digest())


class PairIndex:
    """Hashes of pairs, 16 bytes for each pair, to find duplicates among millions of pairs."""

    def __init__(self) -> None:
        self._sides = array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._sides[0])

    def add(self, source: str, target: str) -> None:
        """Add one pair of lines."""
        for side, text in zip(self._sides, (source, target)):
            side.append(digest(text))

    def arrays(self) -> tuple[Digests, Digests, Digests]:
        """Return hashes of the source lines, the target lines and the pairs, uint64 [n] each."""
        source, target = (np.frombuffer(side, dtype=np.uint64) for side in self._sides)
        return source, target, _mix(source ^ _mix(target, 1), 2)


def _mix(values: Digests, seed: int) -> Digests:
    # The finaliser of splitmix64, so that neighbouring seeds give unrelated orders.
    x = values + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class HeldOut:
    """The pairs of validation and test sets, which must not occur in the training data.

    A training pair leaks if it is also a held-out pair, or if one of its sides is a held-out line
    with more than ``MAX_COMMON_WORDS`` words.
    """

    def __init__(self) -> None:
        self._pairs = PairIndex()
        self._lines: tuple[set[int], set[int]] = (set(), set())

    def add(self, source: str, target: str) -> None:
        """Add one pair of lines."""
        self._pairs.add(source, target)
        for lines, text in zip(self._lines, (source, target)):
            if count_words(text) > MAX_COMMON_WORDS:
                lines.add(digest(text))

    def leaks(self, arrays: tuple[Digests, Digests, Digests]) -> Bools:
        """Return which training pairs leak, bool [n].

        Args:
            arrays: the hashes that :meth:`PairIndex.arrays` returns for the training pairs.
        """
        leak = np.isin(arrays[2], self._pairs.arrays()[2])
        for values, lines in zip(arrays, self._lines):
            leak |= np.isin(values, np.fromiter(lines, np.uint64, len(lines)))
        return leak


class Choice(NamedTuple):
    """Disjoint masks of the pairs that do not stay in the training data, bool [n] each."""

    valid: Bools
    leaking: Bools
    duplicate: Bools


def choose(index: PairIndex, held_out: HeldOut, num_valid: int, seed: int) -> Choice:
    """Find the leaking and duplicate pairs, and choose pairs for the validation set.

    The validation set consists of the ``num_valid`` pairs with the smallest hashes among those
    whose sides occur only once, so that neither side remains in the training data.

    Args:
        index: the training pairs.
        held_out: the pairs of the given validation and test sets.
        num_valid: number of pairs to hold out for validation; 0 holds out none.
        seed: random seed of the choice.

    Raises:
        UserError: there are too few such pairs.
    """
    arrays = index.arrays()
    leaking = held_out.leaks(arrays)
    duplicate = np.ones(len(index), dtype=bool)
    duplicate[np.unique(arrays[2], return_index=True)[1]] = False
    duplicate &= ~leaking
    valid = np.zeros(len(index), dtype=bool)
    if num_valid:
        single = ~leaking
        kept = np.flatnonzero(single)
        for values in arrays[:2]:
            _, inverse, counts = np.unique(values[kept], return_inverse=True, return_counts=True)
            single[kept[counts[inverse] > 1]] = False
        candidates = np.flatnonzero(single)
        if len(candidates) <= num_valid:
            raise UserError(
                f"--valid-size {num_valid}: only {len(candidates)} of {len(index)} pairs have "
                "sides that occur once; give a smaller number or more --source"
            )
        order = np.argsort(_mix(arrays[2][candidates], seed + 3), kind="stable")
        valid[candidates[order[:num_valid]]] = True
    return Choice(valid, leaking, duplicate)

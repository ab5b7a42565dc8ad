"""Split samples into train, valid and test by a hash of their text."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from ...errors import UserError

SUBSETS = ("train", "valid", "test")
_RANGE = float(1 << 64)


class Sample(Protocol):
    """A sample to assign to a subset: a story or a dialog."""

    @property
    def text(self) -> str:
        """The sample as one line."""
        ...

    @property
    def group(self) -> str | None:
        """Name of the group whose samples must share a subset; None for a group of its own."""
        ...


def _hash(seed: int | str, text: str) -> int:
    data = f"{seed}\n{text}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def text_hash(text: str) -> int:
    """Return a hash of 64 bits, without a sign, by which equal texts are found."""
    return _hash("", text)


class Splitter:
    """Assign each sample to train, valid or test by a hash of the seed and its group or text.

    Equal samples therefore share a subset (a duplicate cannot leak from train into valid),
    adding samples later moves none of the old ones, and the order of the files does not
    matter. The shares are met on average, not exactly: of n samples, a subset gets
    ``n * share`` plus or minus about ``sqrt(n * share)``.

    Args:
        seed: any whole number.
        valid: share of the samples for the validation set, in [0, 1).
        test: share of the samples for the test set, in [0, 1).

    Raises:
        UserError: a share is out of range, or the shares leave nothing for training.
    """

    def __init__(self, seed: int, valid: float, test: float) -> None:
        if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
            raise UserError(
                f"--valid {valid} --test {test}: give shares of at least 0 whose sum is below 1"
            )
        self.seed = seed
        self._edges = (valid, valid + test)

    def subset(self, sample: Sample) -> str:
        """Return ``train``, ``valid`` or ``test``, the same for all samples of a group."""
        place = _hash(self.seed, sample.group or sample.text) / _RANGE
        valid_end, test_end = self._edges
        if place < valid_end:
            return "valid"
        return "test" if place < test_end else "train"


S = TypeVar("S", bound=Sample)


def divide(
    held: Mapping[str, Iterable[S]],
    rest: Iterable[S],
    subset: Callable[[S], str],
    leave_out: Callable[[S], object],
) -> Iterator[tuple[str, str]]:
    """Yield ``(subset, text)`` of all samples, those of the held-out sets first.

    Args:
        held: subsets with samples of their own.
        rest: the other samples.
        subset: returns the subset of one of the others.
        leave_out: called with each of the others whose text is in a held-out set.
    """
    texts = set[int]()
    for name, samples in held.items():
        for sample in samples:
            texts.add(text_hash(sample.text))
            yield name, sample.text
    for sample in rest:
        if texts and text_hash(sample.text) in texts:
            leave_out(sample)
        else:
            yield subset(sample), sample.text


class DuplicateFilter:
    """Detect samples whose text has occurred before.

    Stores an 8-byte hash of each sample, which takes about 100 bytes of memory in Python's set.
    The probability that two of n different texts have the same hash is about n^2 / 2^65, which
    is 10^-7 for two million texts.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_new(self, sample: Sample) -> bool:
        """Store the sample's text, and return whether exactly this text is new."""
        key = text_hash(sample.text)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

"""Which samples train, which validate and which test, decided by the text itself."""

import hashlib
from typing import Protocol

from ...errors import UserError

SUBSETS = ("train", "valid", "test")
_RANGE = float(1 << 64)


class Sample(Protocol):
    """What is split: a story, a dialog."""

    @property
    def text(self) -> str:
        """The sample as one line."""
        ...

    @property
    def group(self) -> str | None:
        """The name of what must not be torn apart; None: the sample stands alone."""
        ...


def _hash(seed: int | str, text: str) -> int:
    data = f"{seed}\n{text}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class Splitter:
    """Assign each sample to train, valid or test by a hash of the seed and its group or text.

    So equal samples always land together (a duplicate cannot leak from train into
    valid), adding samples later moves none of the old ones, and the order of the files
    does not matter. The shares are met on average, not exactly: of n samples,
    ``n * share`` plus or minus about ``sqrt(n * share)``.

    Args:
        seed: any whole number.
        valid: share of the samples for validation, in [0, 1).
        test: share for the test set, in [0, 1).

    Raises:
        UserError: the shares leave nothing for training.
    """

    def __init__(self, seed: int, valid: float, test: float) -> None:
        if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
            raise UserError(
                f"--valid {valid} --test {test}: shares of at least 0 whose sum is below 1"
            )
        self.seed = seed
        self._edges = (valid, valid + test)

    def subset(self, sample: Sample) -> str:
        """Return ``train``, ``valid`` or ``test``; samples of one group stay together."""
        place = _hash(self.seed, sample.group or sample.text) / _RANGE
        valid_end, test_end = self._edges
        if place < valid_end:
            return "valid"
        return "test" if place < test_end else "train"


class DuplicateFilter:
    """Remember texts, to find those that came before.

    Keeps eight bytes of hash per sample (about 100 bytes of memory with Python's set);
    two different texts are taken for equal with a chance of n squared / 2^65, some
    10^-7 for two million.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_new(self, sample: Sample) -> bool:
        """Return whether the sample's exact text was not seen before, and remember it."""
        key = _hash("", sample.text)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

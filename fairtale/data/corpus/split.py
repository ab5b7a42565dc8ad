"""Which stories train, which validate, which test: decided by the text itself."""

import hashlib

from ...errors import UserError

SUBSETS = ("train", "valid", "test")
_RANGE = float(1 << 64)


def _hash(seed, text):
    data = f"{seed}\n{text}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class StorySplitter:
    """Sends each story to train, valid or test by a hash of the seed and the story.

    So equal stories always land together (a duplicate cannot leak from train into
    valid), adding stories later moves none of the old ones, and the order of the files
    does not matter. The shares are met on average, not to the story: of n stories,
    ``n * share`` plus or minus about ``sqrt(n * share)``.

    Args:
        seed: any whole number.
        valid: share of the stories for validation, in [0, 1).
        test: share for the test set, in [0, 1).

    Raises:
        UserError: the shares leave nothing for training.
    """

    def __init__(self, seed, valid, test):
        if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
            raise UserError(
                f"--valid {valid} --test {test}: shares of at least 0 whose sum is below 1"
            )
        self.seed = seed
        self._edges = (valid, valid + test)

    def subset(self, story):
        """``train``, ``valid`` or ``test``.

        Args:
            story: has ``text`` and ``group``; stories of one group stay together.
        """
        place = _hash(self.seed, story.group or story.text) / _RANGE
        valid_end, test_end = self._edges
        if place < valid_end:
            return "valid"
        return "test" if place < test_end else "train"


class DuplicateFilter:
    """Tells whether a story's exact text came before.

    Keeps eight bytes of hash per story (about 100 bytes of memory with Python's set);
    two different stories are taken for equal with a chance of n squared / 2^65, some
    10^-7 for two million.
    """

    def __init__(self):
        self._seen = set()

    def is_new(self, story):
        key = _hash("", story.text)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

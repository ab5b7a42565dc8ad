"""A fairseq dictionary whose indices are the ids of a tokenizer.

fairseq's dictionaries begin with ``<s> <pad> </s> <unk>``. A pretrained model numbers its entries
otherwise, has one symbol for several of these four roles, and lacks others. This class keeps its
numbers, so that index and id are the same. Roles that the tokenizer lacks get entries behind all
ids; no model predicts them.

File format: a line with the roles, then one line for each entry in order of the ids, as in
fairseq's ``dict.txt``::

    #tokenizer-ids predicted=50257 bos=50256 pad=50257 eos=50256 unk=50258
    ! 0
    ...

fairseq's own class refuses such a file, because the first line does not end with a count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self, TextIO

from fairseq.data import Dictionary

from ...errors import UserError

ROLES = ("bos", "pad", "eos", "unk")
_HEADER = "#tokenizer-ids"


class TokenizerDictionary(Dictionary):
    """A dictionary with fixed indices, of which the first ``num_predicted`` can be predicted.

    Args:
        symbols: the entries in order of their indices, all different and without white space.
        num_predicted: number of entries of the tokenizer or model, V. Entries from here on are
            never predicted and never targets.
        bos, pad, eos, unk: indices of the roles. ``pad`` and ``unk`` must be entries of their own,
            because padding is masked; ``bos`` and ``eos`` may be the same.

    Raises:
        ValueError: entries are repeated, empty or contain white space, or an index is out of range.
    """

    def __init__(
        self, symbols: Sequence[str], num_predicted: int, *, bos: int, pad: int, eos: int, unk: int
    ) -> None:
        roles = {"bos": bos, "pad": pad, "eos": eos, "unk": unk}
        for name, index in roles.items():
            if not 0 <= index < len(symbols):
                raise ValueError(f"{name}={index}: there are {len(symbols)} entries")
        if not 0 < num_predicted <= len(symbols):
            raise ValueError(f"predicted={num_predicted}: there are {len(symbols)} entries")
        if pad in (bos, eos, unk):
            raise ValueError(f"pad={pad}: padding needs an entry of its own")
        for number, symbol in enumerate(symbols):
            if len(symbol.split()) != 1 or symbol.split()[0] != symbol:
                raise ValueError(f"entry {number} is empty or contains white space: {symbol!r}")
        words = {name: symbols[index] for name, index in roles.items()}
        super().__init__(**words, add_special_symbols=False)
        self.symbols = list(symbols)
        self.count = [0] * len(symbols)
        self.indices = {symbol: index for index, symbol in enumerate(symbols)}
        if len(self.indices) != len(symbols):
            twice = next(s for i, s in enumerate(symbols) if self.indices[s] != i)
            raise ValueError(f"entry {twice!r} appears twice")
        self.bos_index, self.pad_index, self.eos_index, self.unk_index = bos, pad, eos, unk
        self.num_predicted = num_predicted
        self.nspecial = 0  # no entries are implied: the file holds them all

    @classmethod
    def with_roles(cls, symbols: Sequence[str], roles: dict[str, int]) -> Self:
        """Return a dictionary of a tokenizer's entries; missing roles get entries behind them.

        Args:
            symbols: all entries of the tokenizer or model, in order of their ids.
            roles: indices of those of ``ROLES`` that have an entry. A missing ``bos`` is the
                ``eos``; a ``pad`` that is also another role gets an entry of its own, because a
                model that is padded with its end symbol does not learn to end.

        Raises:
            ValueError: ``eos`` is missing, or as in the constructor.
        """
        if "eos" not in roles:
            raise ValueError("the tokenizer has no end-of-text symbol (eos)")
        roles = {"bos": roles["eos"], **roles}
        if roles.get("pad") in [index for name, index in roles.items() if name != "pad"]:
            del roles["pad"]
        entries = list(symbols)
        for name in ("pad", "unk"):
            if name in roles:
                continue
            word = f"<{name}>"
            while word in entries:
                word += "_"
            roles[name] = len(entries)
            entries.append(word)
        return cls(entries, len(symbols), **roles)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenizerDictionary)
            and self.symbols == other.symbols
            and self._roles() == other._roles()
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, as fairseq's

    def _roles(self) -> dict[str, int]:
        indices = (self.bos_index, self.pad_index, self.eos_index, self.unk_index)
        return {"predicted": self.num_predicted, **dict(zip(ROLES, indices))}

    def add_symbol(self, word: str, n: int = 1, overwrite: bool = False) -> int:
        """Count an entry; the entries themselves are fixed.

        Raises:
            UserError: the word is not an entry.
        """
        if word not in self.indices:
            raise UserError(
                f"{word!r} is not an entry of the tokenizer's dictionary, whose entries are fixed: "
                "encode the text with this tokenizer"
            )
        index: int = self.indices[word]
        self.count[index] += n
        return index

    def finalize(self, threshold: int = -1, nwords: int = -1, padding_factor: int = 8) -> None:
        """Do nothing: the order of the entries is fixed."""

    def pad_to_multiple_(self, padding_factor: int) -> None:
        """Do nothing: the number of entries is fixed."""

    def save(self, f: str | TextIO) -> None:
        """Write the dictionary to a file or an open file."""
        if isinstance(f, str):
            os.makedirs(os.path.dirname(f) or ".", exist_ok=True)
            with open(f, "w", encoding="utf-8") as file:
                return self.save(file)
        roles = " ".join(f"{name}={index}" for name, index in self._roles().items())
        print(_HEADER, roles, file=f)
        for symbol, count in zip(self.symbols, self.count):
            print(symbol, count, file=f)

    @classmethod
    def load(cls, f: Any, add_special_symbols: bool = True) -> Self:
        """Read a file written by :meth:`save`.

        Raises:
            ValueError: the file has another format.
        """
        if isinstance(f, str):
            with open(f, encoding="utf-8") as file:
                return cls.load(file)
        head, *lines = f.read().split("\n")
        fields = dict(field.split("=", 1) for field in head.split()[1:] if "=" in field)
        if not is_header(head) or set(fields) != {"predicted", *ROLES}:
            raise ValueError(f"the first line must be {_HEADER} and the roles, not {head[:80]!r}")
        if lines[-1:] != [""]:
            raise ValueError("the last line has no end: the file is cut off")
        entries = [line.rsplit(" ", 1) for line in lines[:-1]]
        for number, entry in enumerate(entries, 2):
            if len(entry) != 2 or not entry[1].isdecimal():
                raise ValueError(f"line {number} must be an entry and its count: {' '.join(entry)}")
        roles = {name: int(value) for name, value in fields.items()}
        dictionary = cls([symbol for symbol, _ in entries], roles.pop("predicted"), **roles)
        dictionary.count = [int(count) for _, count in entries]
        return dictionary


def is_header(line: str) -> bool:
    """Return whether a file with this first line is a :class:`TokenizerDictionary`."""
    return line.split(" ", 1)[0] == _HEADER


def read_dictionary(path: str) -> Dictionary:
    """Read a ``dict.txt`` of either kind.

    Raises:
        ValueError, RuntimeError: the file is not a dictionary.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        fixed = is_header(file.readline())
    return TokenizerDictionary.load(path) if fixed else Dictionary.load(path)


def num_predicted(dictionary: Dictionary) -> int:
    """Return how many entries of a dictionary a model can predict: its first ones, or all."""
    count: int = getattr(dictionary, "num_predicted", len(dictionary))
    return count

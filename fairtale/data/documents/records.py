"""Types shared by the readers of documents: raw and cleaned documents, sources, and the report."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from ..corpus.report import NUM_PLACES_NAMED, CorpusReport

# Reasons to leave out a document; further ones are in ``corpus/report.py``.
BINARY = "binary data, not text"
NOT_TEXT = "value that is not text"
NO_FIELD = "no such field"
NOT_JSON = "not a JSON object"
DAMAGED_MARKUP = "damaged markup"

# Number of removed texts of each kind that report.json shows, and their maximum length.
NUM_REMOVED_SHOWN = 5
_REMOVED_CHARS_SHOWN = 200

TURN_SEPARATOR = "\t"  # that of the lines of dialogs

# Attributes of a report that count documents.
_COUNTED = (
    "num_kept", "num_chars", "skipped", "mended", "amounts", "places", "removed_chars",
    "removed_texts", "num_bytes", "num_lines", "damaged", "lost_bytes", "lost_lines",
)  # fmt: skip

OnBytes = Callable[[int], object]


class RawDocument(NamedTuple):
    """A document as its source holds it."""

    name: str  # id of the document within its source
    text: str
    markup: str  # one of ``cleaning.MARKUPS``
    place: str  # where it was read: ``file``, ``file:line`` or ``file:table:key``
    group: str | None  # documents of a group share a subset; None: split by the text alone
    is_file: bool = False  # a whole file, which may begin with lines of author and title
    answer: str | None = None  # of a conversation, in which ``text`` is the question
    is_filtered: bool = False  # the source holds cleaned text


class Document(NamedTuple):
    """A cleaned document: paragraphs, each on a line of its own, or a question and its answer."""

    name: str
    text: str  # of a conversation: question and answer with TURN_SEPARATOR between them
    place: str
    group: str | None
    is_dialog: bool = False


class DocumentSource(Protocol):
    """A source of documents, which are read one by one.

    The kinds of sources are listed in ``sources.py``; see there how to add one.
    """

    @property
    def path(self) -> str | None:
        """The file that is read, or None for a source that is not a file."""
        ...

    def read(self, report: "DocumentReport", on_bytes: OnBytes) -> Iterator[RawDocument]:
        """Yield the documents in a fixed order.

        Args:
            report: counts the documents that are left out.
            on_bytes: called with the number of bytes that have just been read.
        """
        ...


class DocumentReport(CorpusReport):
    """Count the documents that are kept and skipped, and what was removed from them.

    Args:
        strict: raise an error for a damaged document, or one that occurs twice, instead of
            counting it. An empty document is not damaged.
    """

    def __init__(self, strict: bool = False) -> None:
        super().__init__(strict)
        self.num_chars = 0  # characters of the documents that are kept
        self.removed_chars: Counter[str] = Counter()  # kind -> characters
        self.removed_texts: dict[str, list[str]] = {}  # kind -> the first removed texts

    def keep(self, document: Document) -> None:
        """Count a document that is kept."""
        self.num_kept += 1
        self.num_chars += len(document.text)

    def take(self) -> "DocumentReport":
        """Return what was counted so far, and begin to count anew."""
        taken, fresh = DocumentReport(self.strict), DocumentReport(self.strict)
        for name in _COUNTED:
            setattr(taken, name, getattr(self, name))
            setattr(self, name, getattr(fresh, name))
        return taken

    def add(self, later: "DocumentReport") -> None:
        """Add what another report counted after this one."""
        self.num_kept += later.num_kept
        self.num_chars += later.num_chars
        self.num_bytes += later.num_bytes
        self.num_lines += later.num_lines
        for name in (
            *("skipped", "mended", "amounts", "removed_chars"),
            *("damaged", "lost_bytes", "lost_lines"),
        ):
            getattr(self, name).update(getattr(later, name))
        for own, other, most in (
            (self.places, later.places, NUM_PLACES_NAMED),
            (self.removed_texts, later.removed_texts, NUM_REMOVED_SHOWN),
        ):
            for kind, texts in other.items():
                named = own.setdefault(kind, [])
                named += texts[: most - len(named)]

    def counted(self) -> dict[str, Any]:
        """Return what was counted, as a JSON object."""
        return {name: getattr(self, name) for name in _COUNTED}

    def set_counted(self, values: dict[str, Any]) -> None:
        """Set what :meth:`counted` has returned."""
        for name in _COUNTED:
            kind = type(getattr(self, name))
            if name in values:  # an older run has not counted everything
                setattr(self, name, kind(values[name]))

    def remove(self, kind: str, place: str, texts: list[str]) -> None:
        """Count passages that were removed from a document.

        Args:
            kind: which rule has removed them.
            place: the document.
            texts: the passages.
        """
        self.mend(kind, place, len(texts))
        self.removed_chars[kind] += sum(map(len, texts))
        shown = self.removed_texts.setdefault(kind, [])
        for text in texts[: NUM_REMOVED_SHOWN - len(shown)]:
            cut = text if len(text) <= _REMOVED_CHARS_SHOWN else text[:_REMOVED_CHARS_SHOWN] + "…"
            shown.append(f"{place}: {cut}")

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text: files, works kept and skipped, removals."""
        yield from self.file_lines()
        yield f"works kept: {self.num_kept} ({self.num_chars:,} characters)"
        for kind, count in self.skipped.items():
            yield f"skipped, {kind}: {count} (first: {', '.join(self.places[kind])})"
        for kind, count in self.mended.items():
            chars = self.removed_chars.get(kind)
            size = f" ({chars:,} characters)" if chars else ""
            yield f"{kind}: {self.amounts[kind]:,}{size} in {count} works"
        yield from self.lost_line()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "kept": self.num_kept,
            "characters": self.num_chars,
            "skipped": dict(self.skipped),
            "mended_works": dict(self.mended),
            "mended_occurrences": dict(self.amounts),
            "removed_characters": dict(self.removed_chars),
            "removed_texts": self.removed_texts,
            **self.file_counts(),
        }

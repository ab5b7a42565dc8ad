"""Clean documents: remove markup and metadata, and make each paragraph one line."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ...errors import UserError
from ..corpus.cleaning import CONTROL
from ..corpus.report import CONTROL_CHARACTERS, DUPLICATE, EMPTY, TOO_LONG
from ..corpus.split import DuplicateFilter
from ..corpus.wrapped import paragraphs, read_lines, wrapping_width
from . import markup, metadata
from .records import (
    DAMAGED_MARKUP,
    TURN_SEPARATOR,
    Document,
    DocumentReport,
    DocumentSource,
    OnBytes,
    RawDocument,
)

MARKUPS = ("plain", "markdown", "html", "fb2")

# Kinds of removals and repairs, in the report.
TAGS = "tags removed"
ENTITIES = "entities replaced"
MARKDOWN = "Markdown marks removed"
FB2_PARTS = "descriptions, titles, pictures and notes of FB2 removed"
INVISIBLE = "soft hyphens and zero-width spaces removed"
SPACES = "lines with uneven white space"
JOINED = "wrapped lines joined"
LABELLED = "labelled header lines removed"
TITLES = "lines of author and title removed"
FOOTERS = "footer lines removed"
NOTES = "notes removed"
REFERENCES = "references to notes removed"
EMPTY_TURN = "empty question or answer"

# What `--keep` names.
RULES = ("headers", "footers", "notes", "line-breaks")

_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060]")
_UNEVEN = re.compile(r"\s\s|[^\S ]")


@dataclass(frozen=True)
class CleaningRules:
    """Which rules are applied.

    Args:
        kept: names of ``RULES`` whose matter is kept.
        max_chars: maximum length of a cleaned document.
        function: name of the cleaning function in ``FUNCTIONS``; None: ``works``, but ``none`` for
            documents that their source holds filtered.
    """

    kept: frozenset[str] = frozenset()
    max_chars: int = 5_000_000
    function: str | None = None

    def removes(self, rule: str) -> bool:
        """Return whether a rule is applied."""
        return rule not in self.kept


def read_documents(
    sources: Iterable[DocumentSource],
    rules: CleaningRules,
    report: DocumentReport,
    on_bytes: OnBytes,
) -> Iterator[Document]:
    """Yield the cleaned documents of all sources, each text once.

    Args:
        sources: the sources, in order.
        rules: which cleaning rules are applied.
        report: counts the documents that are kept and left out, and what was removed from them.
        on_bytes: called with the number of bytes that have just been read.
    """
    duplicates = DuplicateFilter()
    for source in sources:
        for raw in source.read(report, on_bytes):
            document = clean_document(raw, rules, report)
            if document is None:
                continue
            if not duplicates.is_new(document):
                report.skip(DUPLICATE, document.place)
                continue
            report.keep(document)
            yield document


def clean_document(
    raw: RawDocument, rules: CleaningRules, report: DocumentReport
) -> Document | None:
    """Return a cleaned document, or None if it is empty, too long or damaged, which is counted.

    Question and answer of a conversation become one line each.

    Raises:
        UserError: there is no cleaning function of this name.
    """
    name = rules.function or ("none" if raw.is_filtered else "works")
    if name not in FUNCTIONS:
        raise UserError(f"--clean {name}: no such cleaning function; give {', '.join(FUNCTIONS)}")
    if raw.answer is not None:
        text = _conversation(raw, raw.answer, report)
    else:
        text = FUNCTIONS[name](raw, rules, report)
    if text is None:
        return None
    text = _encodable(text)
    if not text.strip():
        report.leave_out(EMPTY, raw.place)
        return None
    if len(text) > rules.max_chars:
        report.skip(TOO_LONG, f"{raw.place} ({len(text):,} characters)")
        return None
    group = None if raw.group is None else _encodable(raw.group)
    is_dialog = raw.answer is not None
    return Document(_encodable(raw.name), text, raw.place, group, is_dialog)


def _conversation(raw: RawDocument, answer: str, report: DocumentReport) -> str | None:
    turns = []
    for text in (raw.text, answer):
        text, num_controls = CONTROL.subn("", _INVISIBLE.sub("", _LINE_END.sub("\n", text)))
        if num_controls:
            report.mend(CONTROL_CHARACTERS, raw.place, num_controls)
        turns.append(" ".join(text.split()))
    if not all(turns):
        report.leave_out(EMPTY_TURN, raw.place)
        return None
    return TURN_SEPARATOR.join(turns)


def _clean_work(raw: RawDocument, rules: CleaningRules, report: DocumentReport) -> str | None:
    """Return the text of a work without markup and metadata; None if its markup is damaged.

    Control characters and other invisible ones are removed, runs of white space become a space,
    paragraphs become lines without blank lines between them, and the rules remove markup, headers,
    footers and notes.
    """
    place = raw.place
    text = _LINE_END.sub("\n", raw.text)
    text, num_controls = CONTROL.subn("", text)
    text, num_invisible = _INVISIBLE.subn("", text)
    try:
        text, headings, removals = _without_markup(text, raw.markup)
    except markup.DamagedMarkup as error:
        report.skip(DAMAGED_MARKUP, f"{place} ({error})")
        return None
    lines = read_lines(text)
    width = wrapping_width(lines) if rules.removes("line-breaks") else None
    found, num_joined = paragraphs(lines, width)
    num_uneven = sum(_UNEVEN.search(line) is not None for line in found)
    found = [" ".join(line.split()) for line in found]
    if not raw.is_file:
        headings = set()  # a record has its title in a field of its own
    found, removed = _without_metadata(found, headings, rules)
    text = "\n".join(found)
    if not text or len(text) > rules.max_chars:
        return text  # it is left out, so nothing was removed from it
    removals.update(
        {
            CONTROL_CHARACTERS: num_controls,
            INVISIBLE: num_invisible,
            JOINED: num_joined,
            SPACES: num_uneven,
        }
    )
    for kind, count in removals.items():
        if count:
            report.mend(kind, place, count)
    for kind, texts in removed.items():
        if texts:
            report.remove(kind, place, texts)
    return text


def _clean_lines(raw: RawDocument, rules: CleaningRules, report: DocumentReport) -> str:
    """Return a text whose lines stay, without invisible characters and uneven white space."""
    text, num_controls = CONTROL.subn("", _LINE_END.sub("\n", raw.text))
    text, num_invisible = _INVISIBLE.subn("", text)
    lines = [line for line in text.split("\n") if line.strip()]
    num_uneven = sum(_UNEVEN.search(line.strip()) is not None for line in lines)
    removals = {CONTROL_CHARACTERS: num_controls, INVISIBLE: num_invisible, SPACES: num_uneven}
    for kind, count in removals.items():
        if count:
            report.mend(kind, raw.place, count)
    return "\n".join(" ".join(line.split()) for line in lines)


def _keep(raw: RawDocument, rules: CleaningRules, report: DocumentReport) -> str:
    """Return a text as it is."""
    return raw.text


# What `--clean` names. A function returns the text, or None after counting a damaged document.
FUNCTIONS: dict[str, Callable[[RawDocument, CleaningRules, DocumentReport], str | None]] = {
    "works": _clean_work,
    "lines": _clean_lines,
    "none": _keep,
}


def _encodable(name: str) -> str:
    """Return a name without lone surrogates, which file names and JSON escapes may hold."""
    return name.encode("utf-8", "replace").decode()


def _without_markup(text: str, kind: str) -> tuple[str, set[str] | None, dict[str, int]]:
    """Return the text without markup, its headings, and how much of each kind was removed.

    The headings are None for a text whose markup has none.
    """
    if kind == "fb2":
        text, num_tags, num_parts = markup.fb2_text(text)
        return text, set(), {TAGS: num_tags, FB2_PARTS: num_parts}
    headings: set[str] | None = None
    removals = dict[str, int]()
    without_entities, removals[ENTITIES] = markup.unescape(text)
    if kind == "html" or markup.has_tags(text):
        text, found, removals[TAGS] = markup.html_text(text, is_page=kind == "html")
        headings = found if kind == "html" else None
    else:
        text = without_entities
    if kind == "markdown":
        text, headings, removals[MARKDOWN] = markup.markdown_text(text)
    # Entities and tags may stand for characters that are not wanted.
    text = CONTROL.sub("", _INVISIBLE.sub("", _LINE_END.sub("\n", text)))
    return text, headings, removals


def _without_metadata(
    lines: list[str], headings: set[str] | None, rules: CleaningRules
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the paragraphs without metadata, and what was removed, by kind."""
    removed: dict[str, list[str]] = {}
    if rules.removes("footers"):
        lines, removed[FOOTERS] = metadata.cut_gutenberg(lines)
    # Header and footer are separated even if they are kept, for the notes stand between them.
    header = metadata.split_header(lines, headings)
    before = lines[: len(lines) - len(header.rest)]
    lines, footer = metadata.split_footer(header.rest)
    if rules.removes("notes"):
        lines, notes = metadata.split_notes(lines)
        lines, removed[REFERENCES] = metadata.remove_references(lines, notes)
        removed[NOTES] = notes
    if rules.removes("headers"):
        removed[LABELLED], removed[TITLES] = header.labelled, header.titles
    else:
        lines = before + lines
    if rules.removes("footers"):
        removed[FOOTERS] += footer
    else:
        lines = lines + footer
    return [line for line in lines if line], removed

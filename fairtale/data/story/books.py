"""Split long texts into pieces of the size of a story, at the ends of paragraphs."""

import hashlib
import re
from collections.abc import Iterable, Iterator

from ..corpus.lengths import count_words
from ..corpus.records import ByteStream, read_text_records
from ..corpus.report import CorpusReport

_HEADING = re.compile(r"#{1,6}(?:\s+(.*))?$")
_RULE = re.compile(r"\s*(?:[-*_=]\s*){3,}$")
_QUOTE_MARK = re.compile(r"^\s*>\s?")
# White space after a full stop, question mark or exclamation mark and closing quotes or brackets.
_SENTENCE_END = re.compile(r"""(?<=[.!?])(["'”’)\]]*)\s+|(?<=[。！？｡။။។])([」』”’）]*)""")


def read_paragraphs(
    stream: ByteStream, name: str, report: CorpusReport, max_line_bytes: int
) -> Iterator[tuple[int, str, str]]:
    """Read the paragraphs of a Markdown or plain text.

    A paragraph ends at a blank line, at a rule (``---``), or at a heading without text (a page
    break of a picture book). A heading with text begins a section and is not part of any
    paragraph. A paragraph with a line that is not UTF-8 or too long is skipped and counted.

    Args:
        stream: a binary file.
        name: name of the file, for the report.
        report: counts damaged lines.
        max_line_bytes: maximum size of a line.

    Yields:
        ``(line, section, text)``: the number of the paragraph's first line, a name of its section
        that depends only on the section's first paragraph, and the text.
    """
    section = None
    for line, text, is_heading in _blocks(stream, name, report, max_line_bytes):
        if is_heading:
            section = None
            continue
        if section is None:
            section = "section " + hashlib.sha256(text.encode()).hexdigest()
        yield line, section, text


def _blocks(
    stream: ByteStream, name: str, report: CorpusReport, max_line_bytes: int
) -> Iterator[tuple[int, str, bool]]:
    """Yield ``(line, text, is_heading)``; skip a whole paragraph if one of its lines is damaged."""
    first, lines, damaged = 0, list[str](), False
    for number, record in read_text_records(stream, b"\n", max_line_bytes, name, report):
        if record is None:
            damaged = True
            continue
        text = _QUOTE_MARK.sub("", record).strip()
        heading = _HEADING.match(text)
        if text and not heading and not _RULE.match(text):
            first = first if lines else number
            lines.append(text)
            continue
        if lines and not damaged:
            yield first, " ".join(lines), False
        lines, damaged = [], False
        if heading and heading.group(1):
            yield number, heading.group(1), True
    if lines and not damaged:
        yield first, " ".join(lines), False


def cut_paragraphs(
    paragraphs: Iterable[tuple[int, str, str]], max_words: int
) -> Iterator[tuple[int, str, str]]:
    """Join paragraphs to pieces of at most ``max_words`` words.

    A longer paragraph is split between sentences, and a longer sentence is split between words.

    Args:
        paragraphs: ``(line, section, text)``, as :func:`read_paragraphs` yields them.
        max_words: maximum number of words of a piece, at least 1.

    Yields:
        ``(line, section, text)`` of each piece; a piece never spans two sections.
    """
    piece, num_words, piece_line, piece_section = list[str](), 0, 0, ""
    for line, section, paragraph in paragraphs:
        for part in _parts(paragraph, max_words):
            count = count_words(part)
            if piece and (section != piece_section or num_words + count > max_words):
                yield piece_line, piece_section, " ".join(piece)
                piece, num_words = [], 0
            if not piece:
                piece_line, piece_section = line, section
            piece.append(part)
            num_words += count
    if piece:
        yield piece_line, piece_section, " ".join(piece)


def _parts(paragraph: str, max_words: int) -> list[str]:
    """Split a paragraph into sentences, and sentences into words, as far as it is too long."""
    if count_words(paragraph) <= max_words:
        return [paragraph]
    parts = []
    for sentence in _SENTENCE_END.sub("\\1\\2\n", paragraph).split("\n"):
        words = sentence.split()
        if count_words(sentence) > max_words >= len(words):  # a script without spaces
            parts += [sentence[i : i + max_words] for i in range(0, len(sentence), max_words)]
            continue
        for start in range(0, len(words), max_words):
            parts.append(" ".join(words[start : start + max_words]))
    return parts

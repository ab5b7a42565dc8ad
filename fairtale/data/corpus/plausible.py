"""Check that lines can be what a format takes them for, from shares of what they look like."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from .heads import Head, neighbours
from .lengths import count_words
from .tables import is_header_row
from .wrapped import read_lines, wrapping_width

# With fewer lines, shares say little.
_MIN_LINES = 12
_FEW, _MOST = 0.1, 0.5

_NUMBERS = re.compile(r"[\s\d.,:;/|<>=\[\](){}+*_#-]*\d[\s\d.,:;/|<>=\[\](){}+*_#-]*")
_TIMING = re.compile(r"\s*\d{1,2}:\d{2}(?::\d{2})?[.,]\d{2,3}\s*-->")
MARKUP = re.compile(r"\s*</?[A-Za-z!?][^<>]*>|\s*<\w+(?:\s+\w+\s*=|\s*$)")
JSON = re.compile(r"\s*(?:[{}\]]|\[\s*(?:[\"{\[]|-?\d[\d.eE+-]*\s*[,\]])|\"[^\"]{1,40}\"\s*:)")
_CLOCK = re.compile(
    r"\s*[\[(]?(?:\d{4}-\d\d-\d\d[T ,]+|\d{1,2}[./]\d{1,2}[./]\d{2,4},?\s+)?\d{1,2}:\d{2}"
)
_INDEX = re.compile(r"\s*[\[(#]?[A-Za-z]{0,6}[-_]?\d{1,9}[\])]?\s*[\t.,;:|)]\s*\S")
_ID = re.compile(r"\s*(?:\d{1,9}|\S*\d\S*\d\S*)\s+\S")
_MARK = re.compile(r"<[A-Za-z_|/][\w|/]*>")
_FRAMES = re.compile(r"\s*\{\d+\}\{\d+\}")
_LABEL = re.compile(r"\s*[<\[(]?([^\W\d][\w.'’-]*(?: [\w.'’-]+){0,2}?)[>\])]?\s*[:：|]\s*(?=\S)")
_HEADING = re.compile(r"\s*(=+) [^=]+ \1\s*$")
_CUT_WORDS = re.compile(r"\S@@(?: |$)|(?:^| )▁|(?:^| )##\w|Ġ")
_SEPARATORS = (
    "\t", "|||", "+++$+++", "__eou__", "<|im_start|>", "[INST]", "[SEP]", "</s>", "<sep>", "<|",
    "¦", "||", ";;", "$$", "###", "@@@",
)  # fmt: skip
_SENTENCE_END = re.compile(r"[.!?…。！？।؟:;\"'”’»)\]*_—–-]\s*$")
# The end of a sentence inside a line, before another one.
_INNER_END = re.compile(r"[.!?…][\"'”’»)]*\s+\S|[。！？।؟۔။።]\s*\S")
_HEADER_WORDS = frozenset(
    "id index idx no number key text story stories content title prompt response question answer "
    "query reply message messages label score source target src tgt sentence speaker turn "
    "dialog dialogue utterance input output instruction completion date time url user author body "
    "split language lang context file_id topic emotion en ru de fr es zh".split()
)


def has_cut_words(lines: Sequence[str]) -> bool:
    """Return whether a text was cut into pieces of words already, as with ``@@``."""
    return share(lines, _CUT_WORDS.search) >= _MOST


def share(lines: Sequence[str], test: Callable[[str], object]) -> float:
    """Return the share of the lines that pass a test; 0 for no lines."""
    return sum(1 for line in lines if test(line)) / len(lines) if lines else 0.0


def labels(lines: Sequence[str]) -> Counter[str]:
    """Return how often lines begin with each label, such as ``User`` of ``User: Hello``."""
    found: Counter[str] = Counter()
    for line in lines:
        match = _LABEL.match(line)
        if match:
            found[match[1].strip().casefold()] += 1
    return found


def share_labelled(lines: Sequence[str]) -> float:
    """Return the share of lines that begin with one of few labels, each on several lines."""
    often = [n for _, n in labels(lines).most_common(12) if n >= max(2, 0.02 * len(lines))]
    return sum(often) / len(lines) if lines else 0.0


def is_header(line: str) -> bool:
    """Return whether a line looks like the names of columns."""
    for separator in ("\t", ",", ";", "|"):
        cells = [cell.strip().strip("\"'").casefold() for cell in line.split(separator)]
        if {"q", "a"} <= set(cells):
            return True
        if len(cells) > 1 and sum(cell in _HEADER_WORDS for cell in cells) >= len(cells) / 2:
            return True
    return line.strip().strip("\"'").casefold() in {"text", "story", "content", "stories"}


def doubts(head: Head) -> str | None:
    """Return why the lines of a file are probably no plain sentences or texts, or None.

    Everything is a share of the lines in the first MiB: markup, JSON, numbers, times, indices,
    labels, separators of columns, headings of a wiki, and tokens.
    """
    lines = head.spoken
    for separator in ("\t", ";", ",", "|") if len(lines) > 1 else ():
        rows = [line.split(separator) for line in lines[:200]]
        if is_header(lines[0]) or is_header_row(rows[0], rows[1:]):
            return "the first line looks like the names of columns"
    marks = (
        (MARKUP, "begin with markup"),
        (JSON, "look like JSON"),
    )
    few = (*marks, (_TIMING, "are times of subtitles"))
    for pattern, what in few:
        found = share(lines, pattern.match)
        if found >= _FEW and (len(lines) >= 3 or found == 1):
            return _said(found, what)
    if len(lines) < _MIN_LINES:
        return None
    found = share(lines, _NUMBERS.fullmatch)
    if found >= _FEW:
        return _said(found, "hold only numbers")
    for pattern, what in (
        (_FRAMES, "begin with the frames of a subtitle"),
        (_CLOCK, "begin with a time"),
        (_INDEX, "begin with a number or an id"),
        (_CUT_WORDS, "hold pieces of words (@@, ▁, ##): give text before it was cut"),
    ):
        test = pattern.search if pattern is _CUT_WORDS else pattern.match
        found = share(lines, test)
        if found >= _MOST:
            return _said(found, what)
    for separator in _SEPARATORS:
        found = share(lines, lambda line: separator in line)  # noqa: B023
        if found >= _MOST:
            return _said(found, f"have {separator!r} inside, as columns or turns do")
    if share(lines, _ID.match) >= 0.9:
        return _said(share(lines, _ID.match), "begin with a number or an id")
    marks_inside = Counter(mark for line in lines for mark in set(_MARK.findall(line)))
    for mark, count in marks_inside.most_common(1):
        if count >= _MOST * len(lines):
            return _said(count / len(lines), f"have the mark {mark} inside")
    found = share_labelled(lines)
    if found >= _MOST:
        names = ", ".join(f"{name}:" for name, _ in labels(lines).most_common(2))
        return _said(found, f"begin with a label ({names})")
    if share(lines, _HEADING.match) >= 0.01 and sum(map(bool, map(_HEADING.match, lines))) > 1:
        return "it has headings of a wiki (= Title =)"
    return None


def doubts_of_texts(head: Head) -> str | None:
    """Return why the lines of a file are probably no whole texts, one a line, or None.

    Hard-wrapped lines, texts of several lines with blank lines between them, and single words.
    """
    lines = head.spoken
    if len(lines) < _MIN_LINES:
        return None
    if wrapping_width(read_lines("\n".join(head.lines))) is not None:
        return "its lines are wrapped at a fixed width, as in a book"
    pairs = list(neighbours(head.lines))
    going_on = sum(not _SENTENCE_END.search(a) and b.lstrip()[:1].islower() for a, b in pairs)
    cased = share(lines, lambda line: line.lstrip()[:1].isupper()) >= 0.05
    if cased and len(pairs) >= _MIN_LINES and going_on >= 0.2 * len(pairs):
        return _said(going_on / len(pairs), "break off inside a sentence")
    blank = sum(not line.strip() for line in head.lines[:-1])
    if pairs and blank >= 2 and len(pairs) >= 0.3 * len(lines):
        return "it has blocks of several lines with blank lines between them"
    if blank >= 0.3 * len(lines) and len(pairs) < 0.1 * len(lines):
        return "its paragraphs have blank lines between them"
    words = sorted(map(count_words, lines))
    if words[len(words) // 2] < 4:
        return "half of its lines have fewer than four words"
    several = share(lines, lambda line: len(_INNER_END.findall(line)) > 0)
    if several < _FEW and words[int(0.9 * (len(words) - 1))] < 60:
        return f"{100 * (1 - several):.0f} % of its lines are a single sentence"
    return None


def _said(found: float, what: str) -> str:
    return f"{100 * found:.0f} % of its lines {what}"

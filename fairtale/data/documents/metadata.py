"""Rules that find what is not text of a work: headers, footers and notes.

Every rule works on the list of paragraphs and returns what it removes, so that it can be counted
and shown.
"""

import re
from collections.abc import Collection
from itertools import pairwise
from statistics import median
from typing import NamedTuple

# ------------------------------------------------------------------- labelled lines

# Labels of the lines that crawlers, libraries and archives put before a work.
LABELS = frozenset(
    label.strip()
    for label in """
    title; author; authors; year; date; release date; published; publication date; updated;
    source; original source; url; link; language; genre; genres; rating; fandom; fandoms;
    archive warning; archive warnings; category; relationship; relationships; character;
    characters; additional tags; tags; series; collections; stats; words; chapters; summary; notes;
    author's note; author's notes; translator; translation; translated by; editor; beta; publisher;
    isbn; copyright; license; licence; text; illustration; illustrator; illustrated by; adaptation;
    credits; id; status; size;
    название; автор; авторы; автор оригинала; год; год издания; год написания; дата; опубликовано;
    дата публикации; обновлено; изменено; источник; ссылка; ссылка на оригинал; url-адрес; язык;
    оригинал; язык оригинала; жанр; жанры; рейтинг; фэндом; фандом; фэндомы; направленность;
    категория; пэйринг; пейринг; пэйринг и персонажи; пейринг и персонажи; персонажи; метки;
    предупреждения; предупреждение; размер; статус; кол-во частей; количество частей;
    количество страниц; количество слов; описание; краткое содержание; аннотация; посвящение;
    публикация на других ресурсах; разрешение; примечание; примечания; примечания автора;
    примечание автора; от автора; переводчик; перевод; бета; бета (редактор); бета (редакторы);
    гамма; соавтор; соавторы; редактор; редакторы; издательство; издание; серия; теги; просмотров;
    отзывов; лайков; скачано; лицензия; копирайт; текст; иллюстрации; художник
    """.split(";")
)
_LABELLED = re.compile(r"[#*•\-–—\s]*([^\W\d_][^:\n]{0,40}?)\s*:(?:\s|$)")
_MARKS = str.maketrans("", "", "*_")

# --------------------------------------------------------------------------- titles

_MAX_TITLE_CHARS = 80
_MAX_TITLE_LINES, _MAX_MIXED_CASE = 10, 3
# Lines that begin the text itself: numbers of chapters and their usual words.
_CHAPTER = re.compile(
    r"(?:[IVXLC]+|\d{1,3})[.)]?$|(?:глава|часть|том|книга|действие|пролог|эпилог|предисловие|"
    r"введение|вступление|chapter|part|volume|book|act|scene|prologue|epilogue|preface|"
    r"introduction|foreword|contents|содержание|оглавление)\b",
    re.IGNORECASE,
)
_YEARS = re.compile(
    r"\(?(?:1[5-9]|20)\d\d(?:\s*[-–—]\s*(?:1[5-9]|20)\d\d)?(?:\s*(?:г|гг|year)\.?)?\)?\.?$"
)
_ENDS_A_SENTENCE = re.compile(r"""[.!?…,;:]["'»”’)\]]*$""")
_BEGINS_A_TITLE = re.compile(r"""[«"“(]?[^\W_]""")

# ------------------------------------------------------------------------- licences

_LICENCE = re.compile(
    r"©|\bcreative commons\b|\bCC[- ]BY\b|\bCC0\b|\blicen[cs]ed? (?:under|by)\b|"
    r"\blicen[cs]e\s*:|\bcopyright\b|\ball rights reserved\b|\bpublic domain\b|\bлицензи|"
    r"\bвсе права защищены\b|\bавторск\w+ прав\w*\b|\bпубличн\w+ достояни",
    re.IGNORECASE,
)
_LICENCE_LABEL = re.compile(r"[#*•\-–—_\s]*(?:licen[cs]e|лицензия)[*_]*\s*:", re.IGNORECASE)
_ADDRESS = re.compile(r"[^\w]*(?:https?://|www\.)\S+$", re.IGNORECASE)
_MAX_FOOTER_LINES = 12
_GUTENBERG_START = re.compile(r"\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG", re.IGNORECASE)
_GUTENBERG_END = re.compile(
    r"(?:\*{3}\s*)?END OF (?:THE |THIS )?PROJECT GUTENBERG|End of (?:the )?Project Gutenberg",
    re.IGNORECASE,
)

# ---------------------------------------------------------------------------- notes

_NUMBER = re.compile(r"\[?(\d{1,4})\]?$")
_NOTES_HEADING = re.compile(
    r"(?:примечани[ея]|комментари[ий]|сноски|сноска|notes|footnotes|endnotes)[.:]?$", re.IGNORECASE
)
_REFERENCE = re.compile(r"\[(\d{1,4})\]")
# Chapters with numbers look like notes, but chapters fill a text, and notes only its end.
_MAX_SHARE_OF_NOTES = 0.25
_MAX_SHARE_OF_CITED_NOTES = 0.5  # if the text cites the first note
_MAX_CHARS_OF_A_NOTE = 600  # median


def is_labelled(line: str) -> bool:
    """Return whether a line is a known label, a colon and a value, such as ``Author: N. N.``."""
    match = _LABELLED.match(line.translate(_MARKS))
    return match is not None and match[1].strip().lower() in LABELS


def is_title_like(line: str) -> bool:
    """Return whether a line may be of the author and title: short, and no sentence.

    Lines in capital letters and years are title-like, whatever their end; numbers of chapters and
    such words as ``Chapter`` begin the text.
    """
    if len(line) > _MAX_TITLE_CHARS or _CHAPTER.match(line):
        return False
    if _YEARS.match(line):
        return True
    if not _BEGINS_A_TITLE.match(line):
        return False
    letters = [c for c in line if c.isalpha()]
    if not letters:
        return False
    return _is_upper(line) or (letters[0].isupper() and not _ENDS_A_SENTENCE.search(line))


def _is_upper(line: str) -> bool:
    letters = [c for c in line if c.isalpha()]
    return len(letters) > 1 and all(c.isupper() for c in letters)


class Header(NamedTuple):
    """What was found at the beginning of a work."""

    labelled: list[str]
    titles: list[str]
    rest: list[str]


def split_header(lines: list[str], headings: Collection[str] | None = ()) -> Header:
    """Separate labelled lines, and lines of author and title, from the beginning of a work.

    Args:
        lines: the paragraphs.
        headings: the lines that the markup makes headings; only these can be title lines. None if
            there is no markup: then they are at most 10 lines that are no sentences (see
            :func:`is_title_like`), of which at most 3 are not in capital letters; if there are
            more, the work is verse or a list, and all of them stay.
    """
    taken = list[str]()
    labelled_end = 0
    for number, line in enumerate(lines):
        if is_labelled(line):
            labelled_end = number + 1
        elif not is_title_like(line) or (headings is not None and line not in headings):
            break
        taken.append(line)
    if headings is None:
        # A line that the next one continues is no title.
        if labelled_end < len(taken) < len(lines) and lines[len(taken)][:1].islower():
            taken.pop()
        titles = [line for line in taken if not is_labelled(line)]
        num_mixed = sum(not _is_upper(line) and not _YEARS.match(line) for line in titles)
        if num_mixed > _MAX_MIXED_CASE or len(titles) > _MAX_TITLE_LINES:
            del taken[labelled_end:]
    if len(taken) == len(lines):
        del taken[labelled_end:]
    labelled = [line for line in taken if is_labelled(line)]
    titles = [line for line in taken if not is_labelled(line)]
    return Header(labelled, titles, lines[len(taken) :])


def split_footer(lines: list[str]) -> tuple[list[str], list[str]]:
    """Separate the licence and the source of a work from its end.

    Of the last 12 lines, a line with the label of a licence and all after it are taken; else those
    at the end that name a licence or a copyright or hold nothing but an address, and labelled lines
    among them. A last line that is a year is taken as well.

    Returns:
        The rest and the footer.
    """
    last = range(max(0, len(lines) - _MAX_FOOTER_LINES), len(lines))
    start = next((i for i in last if _LICENCE_LABEL.match(lines[i])), len(lines))
    evidence = start < len(lines)
    for number in range(start - 1, last.start - 1, -1):
        line = lines[number]
        clear = len(line) <= 300 and bool(_LICENCE.search(line) or _ADDRESS.match(line))
        if not clear and not is_labelled(line):
            break
        evidence = evidence or clear
        start = number
    if not evidence:
        start = len(lines)
    if start > 0 and _YEARS.match(lines[start - 1]):
        start -= 1
    return lines[:start], lines[start:]


def cut_gutenberg(lines: list[str]) -> tuple[list[str], list[str]]:
    """Separate what is before and after Project Gutenberg's own marks from a work.

    Returns:
        The work and the other lines.
    """
    start = next((i + 1 for i, line in enumerate(lines) if _GUTENBERG_START.search(line)), 0)
    marks = (i for i, line in enumerate(lines) if i >= start and _GUTENBERG_END.search(line))
    end = next(marks, len(lines))
    return lines[start:end], lines[:start] + lines[end:]


def split_notes(lines: list[str]) -> tuple[list[str], list[str]]:
    """Separate numbered notes from the end of a work: lines ``1``, a note, ``2``, a note, ...

    Notes are short, and they are at most a quarter of the work, or half of it if the work cites
    them as ``[1]``; chapters with numbers are neither. A heading such as ``Notes`` goes with them.

    Returns:
        The rest and the notes.
    """
    numbers = [(i, int(match[1])) for i, line in enumerate(lines) if (match := _NUMBER.match(line))]
    # From the end back, as long as the numbers count up; a second list begins with 1 again.
    starts, following = list[int](), None
    for index, number in reversed(numbers):
        if following is not None and following not in (number + 1, 1):
            break
        if number == 1:
            starts.append(index)
        following = number
    sizes = list(map(len, lines))
    for start in reversed(starts):  # the longest list first
        places = [i for i, _ in numbers if i >= start] + [len(lines)]
        cited = any("[1]" in line for line in lines[:start])
        share = _MAX_SHARE_OF_CITED_NOTES if cited else _MAX_SHARE_OF_NOTES
        notes = [sum(sizes[a + 1 : b]) for a, b in pairwise(places)]
        if sum(sizes[start:]) <= share * sum(sizes) and median(notes) <= _MAX_CHARS_OF_A_NOTE:
            if min(notes[:-1], default=1) == 0:
                continue  # numbers without notes
            if start > 0 and _NOTES_HEADING.match(lines[start - 1]):
                start -= 1
            return lines[:start], lines[start:]
    return lines, []


def remove_references(lines: list[str], notes: list[str]) -> tuple[list[str], list[str]]:
    """Remove the references ``[1]`` to the notes of a work.

    Returns:
        The lines, and the references that were removed.
    """
    known = {match[1] for line in notes if (match := _NUMBER.match(line))}
    removed = list[str]()

    def replace(match: re.Match[str]) -> str:
        if match[1] not in known:
            return match[0]
        removed.append(match[0])
        return ""

    return [_REFERENCE.sub(replace, line) for line in lines] if known else lines, removed

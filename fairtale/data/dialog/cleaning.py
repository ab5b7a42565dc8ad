"""Clean the turns of dialogs, and decide which dialogs are kept."""

import re
from typing import NamedTuple

from ..corpus.cleaning import CONTROL, is_visible
from .records import DialogReport

# Reasons to leave out a dialog.
NO_RESPONSE = "a single turn, so no response"
EMPTY_QUERY = "empty query"
EMPTY_RESPONSE = "empty response"
EQUAL = "response equals query"

# Repairs of a dialog that is kept.
TURNS_DROPPED = "turns without words dropped"
CONTEXT_CUT = "context cut where a turn is too long"

DEFAULT_MAX_CHARS = 512
DEFAULT_MAX_CONTEXT_TURNS = 10  # as in PolyAI's files

# A turn longer than this multiple of the maximum is not cleaned: it would stay too long.
_MAX_SHRINKING = 20
# Maximum depth of nested brackets that are removed, from the inside out.
_MAX_NESTING = 8
# A bracket that is part of an emoticon, as in ":(", does not begin an aside.
_ASIDE = re.compile(
    r" ?(?<![:;=])(?<![:;=]-)"
    r"(?:\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}|（[^（）]*）|【[^【】]*】|［[^［］]*］)"
)

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # "-" is handled separately
_NOTES = "\u2669\u266a\u266b\u266c"
_SIGNS = f"\u2022\u00b7\u2219\u25e6{_NOTES}|,\u3001\uff0c"  # bullets, notes, commas
_MARKS = "#*<>~=+"  # stripped only beside white space, so not in "#1" or "*laughs*"
# A single dash or full stop before a digit is part of the number.
_LEADING = re.compile(
    rf"(?:[\s{_DASHES}{_SIGNS}\u2026]+|-{{2,}}|-(?!\d)|\.{{2,}}|\.(?!\d)|[{_MARKS}:;]+(?=\s|$))+"
)
# Characters that end a sentence (. ! ? and an ellipsis) are not stripped.
_TRAILING = f" -{_DASHES}{_SIGNS};:"
_QUOTES = dict(zip('"“„«‹「『‘`', '"”“»›」』’`', strict=True))
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_END = re.compile(r"[\w.!?)]")


class Cleaning(NamedTuple):
    """How turns are cleaned, and which dialogs are kept."""

    remove_asides: bool = True  # remove bracketed text together with its brackets
    strip_punctuation: bool = True  # see :func:`strip_outer_punctuation`
    min_chars: int = 1  # minimum length of query and response after cleaning
    max_chars: int = DEFAULT_MAX_CHARS  # maximum length of query and response after cleaning
    allow_equal: bool = False  # keep a response that equals its query
    max_context_turns: int = DEFAULT_MAX_CONTEXT_TURNS  # number of turns kept before the query
    # remove tags, and replace entities; None: in formats of subtitles and shops
    clean_markup: bool | None = None


def clean_turn(text: str, cleaning: Cleaning) -> str:
    """Return a turn as one line, without what ``cleaning`` removes; the result may be empty.

    Line breaks and tabs become spaces. Control characters and lone surrogates are removed; see
    :func:`whole_characters`.
    """
    if CONTROL.search(text):
        text = CONTROL.sub("", whole_characters(text))
    text = " ".join(text.split())
    if not is_visible(text):
        return ""
    if len(text) > _MAX_SHRINKING * cleaning.max_chars:
        return text  # choose_turns leaves it out as too long
    if cleaning.remove_asides:
        text = remove_asides(text)
    if cleaning.strip_punctuation:
        text = strip_outer_punctuation(text)
    return text


def whole_characters(text: str) -> str:
    r"""Remove lone surrogates, which UTF-8 cannot encode, and join surrogate pairs.

    Escape sequences can produce both: JSON that was cut inside an emoji ends with ``\ud83d``, and
    a Python literal may hold ``\ud83d\ude00``, which Python reads as two characters.
    """
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


def remove_asides(text: str) -> str:
    """Remove bracketed text such as ``[music]``, ``(laughs)`` or ``{sighs}``.

    Nested brackets are removed too. A bracket without its counterpart stays, and so do emoticons.

    Args:
        text: a turn without consecutive spaces.
    """
    for _ in range(_MAX_NESTING):
        shorter = _ASIDE.sub(_gap, text)
        if shorter == text:
            break
        text = shorter
    return text.strip()


def _gap(aside: re.Match[str]) -> str:
    """Return the replacement of an aside: a space between words, nothing before punctuation."""
    text, end = aside.string, aside.end()
    return " " if text[end : end + 1].isalnum() and aside.start() else ""


def strip_outer_punctuation(text: str) -> str:
    """Strip punctuation around a turn that is not part of what was said.

    At the beginning, these are dashes (``- Hello``), dots, commas, bullets, music notes, and some
    other characters before white space. At the end, these are dashes, commas, colons, semicolons
    and notes; characters that end a sentence (``.``, ``!``, ``?``, ``...``) stay. Quotation marks
    are stripped if a pair encloses the whole turn, or if one at an end has no counterpart;
    apostrophes and inch marks (``6"``) stay. A turn without words may become empty.
    """
    while text:
        if text[0].isalnum() and _PLAIN_END.match(text[-1]):
            break
        shorter = text
        leading = _LEADING.match(text)
        if leading:
            shorter = text[leading.end() :]
        shorter = _strip_quotes(_strip_end(shorter))
        if shorter == text:
            break
        text = shorter
    return text


def _strip_end(text: str) -> str:
    text = text.rstrip(_TRAILING)
    shorter = text.rstrip(_MARKS)
    return shorter.rstrip() if not shorter or shorter[-1] == " " else text


def _strip_quotes(text: str) -> str:
    if len(text) < 2:
        return "" if text in _QUOTES or text in _QUOTES.values() else text
    first, last = text[0], text[-1]
    closing = _QUOTES.get(first)
    inside = text[1:-1]
    if closing and last == closing and first not in inside and closing not in inside:
        return inside
    if first == last == "'" and "'" not in _APOSTROPHE.sub("", inside):
        return inside
    if first == '"' or last == '"':
        if text.count('"') > 1:
            return text
        return text[1:] if first == '"' else text if text[-2].isdigit() else text[:-1]
    if closing and first not in "‘`" and closing not in text[1:]:
        return text[1:]
    if last in "”»›」』" and not any(c in text for c in "“„«‹「『"):
        return text[:-1]
    return text


def choose_turns(
    turns: list[str], cleaning: Cleaning, place: str, report: DialogReport
) -> list[str] | None:
    """Return the turns to keep of a dialog, or None if the dialog is left out.

    Args:
        turns: cleaned turns, oldest first; the last two are query and response.
        cleaning: the limits of a dialog.
        place: ``file:line``, for the report.
        report: counts the dialogs that are left out and the repairs.
    """
    if len(turns) < 2:
        report.leave_out(NO_RESPONSE, place)
        return None
    query, response = turns[-2:]
    for side, text, empty in (
        ("query", query, EMPTY_QUERY),
        ("response", response, EMPTY_RESPONSE),
    ):
        if not text:
            report.leave_out(empty, place)
            return None
        if len(text) > cleaning.max_chars:
            report.leave_out(f"{side} of more than {cleaning.max_chars} characters", place)
            return None
        if len(text) < cleaning.min_chars:
            report.leave_out(f"{side} of fewer than {cleaning.min_chars} characters", place)
            return None
    if query == response and not cleaning.allow_equal:
        report.leave_out(EQUAL, place)
        return None
    context: list[str] = []
    for text in reversed(turns[:-2]):
        if len(context) == cleaning.max_context_turns:
            break
        if len(text) > cleaning.max_chars:
            report.mend(CONTEXT_CUT, place)
            break
        if text:
            context.append(text)
        else:
            report.mend(TURNS_DROPPED, place)
    return context[::-1] + [query, response]

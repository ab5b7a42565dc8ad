"""Clean a record of text: remove control characters and join its lines."""

import re

from .report import CONTROL_CHARACTERS, EMPTY, LINE_BREAKS, TOO_LONG, CorpusReport

# Characters to remove: C0 and C1 control characters, lone surrogates (a JSON escape can produce
# them, and UTF-8 cannot encode them), non-characters, and byte order marks left inside a text by
# a concatenation of files. White space (tab, line feed, vertical tab, form feed, carriage return,
# next line) is not among them, because str.split replaces it by a space.
CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)
# A text of nothing but white space and characters without width is empty.
_VISIBLE = re.compile("[^\\s\u00ad\u200b-\u200f\u2060\ufe00-\ufe0f]")
_LINE_BREAK = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")


def is_visible(text: str) -> bool:
    """Return whether a text has any character that one can see."""
    return _VISIBLE.search(text) is not None


def clean(text: str, place: str, report: CorpusReport, max_chars: int) -> str | None:
    """Return a record as one line of text, or None if it is empty or too long.

    Control characters are removed, and every run of white space, including line breaks,
    becomes a single space. All other characters stay: text with a wrong encoding (``â€œ``)
    is not repaired, and text that looks like a special symbol (``</s>``) is not removed.

    Args:
        text: the record.
        place: ``file:line``, for the report.
        report: counts the records that are left out and the repairs.
        max_chars: maximum length of a record after cleaning, in characters.
    """
    num_controls = 0
    if CONTROL.search(text):
        text, num_controls = CONTROL.subn("", text)
    text = text.strip()
    num_breaks = len(_LINE_BREAK.findall(text))
    text = " ".join(text.split())
    if not is_visible(text):
        report.leave_out(EMPTY, place)
        return None
    if len(text) > max_chars:
        report.skip(TOO_LONG, f"{place} ({len(text):,} characters)")
        return None
    if num_controls:
        report.mend(CONTROL_CHARACTERS, place, num_controls)
    if num_breaks:
        report.mend(LINE_BREAKS, place, num_breaks)
    return text

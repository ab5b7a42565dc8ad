"""Characters that no text should hold, and a record as one clean line."""

import re

from .report import CONTROL_CHARACTERS, EMPTY, LINE_BREAKS, TOO_LONG, CorpusReport

# C0 and C1 controls but for the white space among them (tab, line feed, vertical tab,
# form feed, carriage return, next line: str.split turns those into a space), halves of
# surrogate pairs (a JSON escape can make them; UTF-8 cannot hold them), non-characters and
# byte order marks that a concatenation left in the middle.
CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)
_LINE_BREAK = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")


def clean(text: str, place: str, report: CorpusReport, max_chars: int) -> str | None:
    """Return a record as one line of text, or None, counted, if it is empty or too long.

    Control characters are removed; every run of white space, line breaks included,
    becomes a single space. Letters are left as they are: wrongly decoded text
    (``â€œ``) stays, and so does anything that looks like a mark (``</s>``).

    Args:
        text: the record.
        place: ``file:line``, for the report.
        report: counts what is left out and mended.
        max_chars: the longest record that is kept, in characters after cleaning.
    """
    num_controls = 0
    if CONTROL.search(text):
        text, num_controls = CONTROL.subn("", text)
    text = text.strip()
    num_breaks = len(_LINE_BREAK.findall(text))
    text = " ".join(text.split())
    if not text:
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

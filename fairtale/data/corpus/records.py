"""Cleaning of story text, and the account of everything skipped or mended on the way.

Nothing here needs more than the standard library, so commands that only handle text
start at once.
"""

import re
from collections import Counter

from ...errors import UserError

# Named in the report for each kind; the rest is counted.
NUM_PLACES_NAMED = 3

# What can be wrong with a record (a line, a story, a paragraph) so that it is skipped.
EMPTY = "empty"
TOO_LONG = "too long"
INVALID_UTF8 = "invalid UTF-8"
NO_STORY = "no story field"
DUPLICATE = "duplicate"

# What is mended in a record that is kept.
CONTROL_CHARACTERS = "control characters removed"
LINE_BREAKS = "line breaks replaced by a space"

# Skipped records of these kinds are ordinary; any other kind is an error when strict.
_HARMLESS = (EMPTY, DUPLICATE)

# C0 and C1 controls but for the white space among them (tab, line feed, vertical tab,
# form feed, carriage return, next line: str.split turns those into a space), halves of
# surrogate pairs (a JSON escape can make them; UTF-8 cannot hold them), non-characters and
# byte order marks that a concatenation left in the middle.
CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)
_LINE_BREAK = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")

_BLOCK_BYTES = 1 << 20


class StoryReport:
    """Counts of what was read, skipped and mended, with the first places of each kind.

    Args:
        strict: a skipped record that is not merely empty or a duplicate is an error.
    """

    def __init__(self, strict=False):
        self.strict = strict
        self.num_kept = 0
        self.skipped = Counter()  # kind -> records
        self.mended = Counter()  # kind -> records touched
        self.amounts = Counter()  # kind -> occurrences inside those records
        self.places = {}  # kind -> the first places, as "file:line"
        self.files = {}  # format -> [(file, how it was recognised)]
        self.ignored_files = []

    def skip(self, kind, place):
        """Counts a record that is left out.

        Raises:
            UserError: ``strict``, and the record is not merely empty or a duplicate.
        """
        if self.strict and kind not in _HARMLESS:
            raise UserError(f"{place}: {kind}; --strict allows none (without it they are skipped)")
        self.skipped[kind] += 1
        self._name(kind, place)

    def mend(self, kind, place, amount=1):
        """Counts ``amount`` repairs inside one record that is kept."""
        self.mended[kind] += 1
        self.amounts[kind] += amount
        if kind != LINE_BREAKS:  # in nearly every story, and no fault
            self._name(kind, place)

    def _name(self, kind, place):
        named = self.places.setdefault(kind, [])
        if len(named) < NUM_PLACES_NAMED:
            named.append(place)

    def lines(self):
        """The report as lines of text: files, stories kept, skipped, mended."""
        for story_format, files in self.files.items():
            name, reason = files[0]
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            yield f"read as {story_format} ({reason}): {name}{more}"
        if self.ignored_files:
            shown = ", ".join(self.ignored_files[:NUM_PLACES_NAMED])
            yield f"ignored, unknown extension: {len(self.ignored_files)} files (first: {shown})"
        yield f"stories kept: {self.num_kept}"
        for kind, count in self.skipped.items():
            yield f"skipped, {kind}: {count} (first: {', '.join(self.places[kind])})"
        for kind, count in self.mended.items():
            places = ", ".join(self.places.get(kind, ()))
            first = f" (first: {places})" if places else ""
            yield f"{kind}: {self.amounts[kind]} in {count} stories{first}"

    def as_dict(self):
        """The same for a JSON file."""
        return {
            "kept": self.num_kept,
            "skipped": dict(self.skipped),
            "mended_stories": dict(self.mended),
            "mended_occurrences": dict(self.amounts),
            "first_places": self.places,
            "files": {kind: len(files) for kind, files in self.files.items()},
            "ignored_files": len(self.ignored_files),
        }


def read_records(stream, separator, max_bytes):
    """Cuts a binary stream at ``separator`` without ever holding a record too long.

    Args:
        stream: a binary file.
        separator: bytes; ``b"\\n"`` gives lines.
        max_bytes: longer records are passed over, block by block.

    Yields:
        ``(line, record)``: the 1-based line where the record begins, and its bytes without
        the separator, or None for a record of more than ``max_bytes``. What follows the
        last separator is a record unless it is blank.
    """
    line, carry, overlong, dropped_lines = 1, b"", False, 0
    newlines_in_separator = separator.count(b"\n")
    while True:
        block = stream.read(_BLOCK_BYTES)
        records = (carry + block).split(separator)
        carry = records.pop()
        for record in records:
            yield line, None if overlong or len(record) > max_bytes else record
            line += dropped_lines + record.count(b"\n") + newlines_in_separator
            overlong, dropped_lines = False, 0
        if not block:
            break
        if len(carry) > max_bytes + len(separator) - 1:  # part of a separator may be in it
            overlong = True
        if overlong:
            # Keep what may be the beginning of a separator, drop the rest.
            keep_from = max(0, len(carry) - len(separator) + 1)
            dropped_lines += carry.count(b"\n", 0, keep_from)
            carry = carry[keep_from:]
    if carry.strip() or overlong:
        yield line, None if overlong or len(carry) > max_bytes else carry


def without_byte_order_mark(line, record):
    """Takes a UTF-8 byte order mark off the first record of a file."""
    if line == 1 and record is not None and record.startswith(b"\xef\xbb\xbf"):
        return record[3:]
    return record


def decode(record, line, name, report):
    """The text of ``record``, or None, counted, where it is not UTF-8.

    Args:
        record: bytes.
        line: where the record begins, 1-based.
        name: of the file, for the report.
        report: a :class:`StoryReport`.
    """
    try:
        return record.decode("utf-8")
    except UnicodeDecodeError as error:
        line += record.count(b"\n", 0, error.start)
        byte = record[error.start]
        report.skip(INVALID_UTF8, f"{name}:{line} (byte 0x{byte:02x})")
        return None


def clean(text, place, report, max_chars):
    """One story as one line of text, or None, counted, if it is empty or too long.

    Control characters are removed; every run of white space, line breaks included,
    becomes a single space. Letters are left as they are: wrongly decoded text
    (``â€œ``) stays, and so does anything that looks like a mark (``</s>``).

    Args:
        text: str.
        place: ``file:line``, for the report.
        report: a :class:`StoryReport`.
        max_chars: the longest story that is kept, in characters after cleaning.
    """
    num_controls = 0
    if CONTROL.search(text):
        text, num_controls = CONTROL.subn("", text)
    text = text.strip()
    num_breaks = len(_LINE_BREAK.findall(text))
    text = " ".join(text.split())
    if not text:
        report.skip(EMPTY, place)
        return None
    if len(text) > max_chars:
        report.skip(TOO_LONG, f"{place} ({len(text):,} characters)")
        return None
    if num_controls:
        report.mend(CONTROL_CHARACTERS, place, num_controls)
    if num_breaks:
        report.mend(LINE_BREAKS, place, num_breaks)
    return text

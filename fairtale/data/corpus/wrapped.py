"""Join the lines of paragraphs that were wrapped at a fixed width."""

import re
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

# A text is wrapped at a width in this range; verse is narrower, and a line of unwrapped text wider.
_MIN_WIDTH, _MAX_WIDTH = 50, 100
_MIN_LINES = 12
# Lines of wrapped prose end where the next word has no room; in verse this happens by chance.
_MIN_SHARE_FULL = 0.5
# A line that leaves this much room after the next line's first word is the last of a paragraph.
_ROOM_AT_THE_END = 15
_HYPHEN_AT_THE_END = re.compile(r"[^\W\d_]-$")


class Line(NamedTuple):
    """A line that is not blank."""

    text: str  # without white space at the ends
    indent: int  # columns of white space before it
    after_blank: bool  # a blank line, or nothing, is before it

    @property
    def end(self) -> int:
        """The column where the line ends."""
        return self.indent + len(self.text)

    @property
    def first_word(self) -> int:
        """The length of the first word."""
        return len(self.text.split(None, 1)[0])


def read_lines(text: str) -> list[Line]:
    """Return the lines of a text that are not blank."""
    lines, after_blank = list[Line](), True
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped:
            start = line[: len(line) - len(line.lstrip())].expandtabs()
            lines.append(Line(stripped, len(start), after_blank))
        after_blank = not stripped
    return lines


def wrapping_width(lines: list[Line]) -> int | None:
    """Return the width at which a text is wrapped, or None if it is not.

    A text is wrapped if its lines are of at most 100 columns, and at least half of those within
    paragraphs end where the first word of the next line has no room.
    """
    if len(lines) < _MIN_LINES:
        return None
    ends = sorted(line.end for line in lines)
    width = ends[int(0.98 * (len(ends) - 1))]
    if not _MIN_WIDTH <= width <= _MAX_WIDTH or ends[-1] > _MAX_WIDTH:
        return None
    usual = _usual_indent(lines)
    pairs = [
        (line, following)
        for line, following in pairwise(lines)
        if not following.after_blank and following.indent <= usual + 1
    ]
    # Lines of justified or hand-wrapped text may be a little shorter than they could be.
    full = sum(line.end + 1 + following.first_word > width - 3 for line, following in pairs)
    return width if pairs and full >= _MIN_SHARE_FULL * len(pairs) else None


def _usual_indent(lines: list[Line]) -> int:
    return Counter(line.indent for line in lines).most_common(1)[0][0]


def paragraphs(lines: list[Line], width: int | None) -> tuple[list[str], int]:
    """Return the paragraphs, and the number of lines that were joined to the line before them.

    Args:
        lines: the lines of the text.
        width: width at which it is wrapped; None if each line is a paragraph. In a wrapped text, a
            paragraph begins after a blank line, at a deeper indentation than most lines have, or
            after a line with much room at its end.
    """
    if width is None:
        return [line.text for line in lines], 0
    usual = _usual_indent(lines)
    found, num_joined = list[str](), 0
    previous: Line | None = None
    for line in lines:
        begins = (
            previous is None
            or line.after_blank
            or line.indent > usual + 1
            or previous.end + 1 + line.first_word <= width - _ROOM_AT_THE_END
        )
        if begins:
            found.append(line.text)
        else:
            # Whether a hyphen belongs to the word is unknown, so it is kept.
            space = "" if _HYPHEN_AT_THE_END.search(found[-1]) else " "
            found[-1] += space + line.text
            num_joined += 1
        previous = line
    return found, num_joined

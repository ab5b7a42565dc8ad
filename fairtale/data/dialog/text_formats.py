"""Read dialogs from plain text: lines, tabs, ``__eou__``, and lines that name their speaker.

Each reader takes a binary stream, the name of the file and the report.
"""

import re
from collections.abc import Iterator

from ..corpus.records import ByteStream
from .records import DialogReport, RawDialog, read_text
from .shapes import by_roles

TOO_MANY_TURNS = "too many turns"
NO_SPEAKER = "a line before the first speaker"

# A line with more turns is taken for a table or for damaged data, not for a dialog.
MAX_TURNS = 1000
# Maximum number of lines of a document; the plain text of OPUS does not mark their ends.
_DOCUMENT_LINES = 10_000
# The first lines of a document identify it: equal first lines mean the same film.
_GROUP_LINES = 5

END_OF_UTTERANCE = "__eou__"
_END_OF_TURN = re.compile(r"__eot__")
SPEAKER = re.compile(r"\s*[<\[(]?([^\W\d][\w.'’-]*(?: [\w.'’-]+){0,2}?)[>\])]?\s*[:：]\s*")
_RULE = re.compile(
    r"\s*(?:[-=*_#~]\s*){3,}$|\s*#?\s*(?:dialog(?:ue)?|conversation|chat)\s*#?\d+\s*:?\s*$",
    re.IGNORECASE,
)


def read_lines(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read documents in which every line answers the lines before it.

    A blank line ends a document, and so does a line that is lost.
    """
    turns, start = list[str](), 1
    for line, text in read_text(stream, name, report):
        blank = text is None or not text.strip()
        if turns and (blank or len(turns) == _DOCUMENT_LINES):
            yield RawDialog(turns, "\n".join(turns[:_GROUP_LINES]), f"{name}:{start}", True)
            turns = []
        if text is not None and not blank:
            start = start if turns else line
            turns.append(text)
    if turns:
        yield RawDialog(turns, "\n".join(turns[:_GROUP_LINES]), f"{name}:{start}", True)


def read_tsv(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read dialogs whose turns are separated by tabs; the group is the first turn."""
    for line, text in read_text(stream, name, report):
        if text is None or not text.strip():
            continue
        turns, place = text.split("\t"), f"{name}:{line}"
        if len(turns) > MAX_TURNS:
            kind = f"{TOO_MANY_TURNS}, over {MAX_TURNS}"
            report.skip(kind, place, len(text.encode()) + 1)
            continue
        yield RawDialog(turns, turns[0], place)


def read_eou(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read dialogs, one a line, in which ``__eou__`` ends an utterance.

    With ``__eot__``, as in the Ubuntu Dialogue Corpus, a turn has several utterances.
    """
    for line, text in read_text(stream, name, report):
        if text is None or not text.strip():
            continue
        if "__eot__" in text:
            parts = [p.replace(END_OF_UTTERANCE, " ") for p in _END_OF_TURN.split(text)]
        else:
            parts = text.split(END_OF_UTTERANCE)
        turns = [part for part in parts if part.strip()]
        if turns:
            yield RawDialog(turns, turns[0], f"{name}:{line}", True)


def read_labelled(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read dialogs whose lines begin with their speaker, such as ``User: Hello``.

    A blank line, a rule (``---``) or a lost line ends a dialog. A line without a speaker goes on
    with the turn before it. Where a speaker is a bot or an assistant, only its turns are
    responses.
    """
    roles, turns, start = list[str](), list[str](), 1
    for line, text in read_text(stream, name, report):
        if text is None or not text.strip() or _RULE.match(text):
            yield from by_roles(roles, turns, None, f"{name}:{start}")
            roles, turns = [], []
            continue
        match = SPEAKER.match(text)
        role = match[1].casefold() if match else None
        said = text[match.end() :] if match else text
        if role is None and not turns:
            report.skip(NO_SPEAKER, f"{name}:{line}", len(text.encode()) + 1)
        elif role is None or roles and role == roles[-1]:
            turns[-1] += f" {said}"
        else:
            start = start if turns else line
            roles.append(role)
            turns.append(said)
    yield from by_roles(roles, turns, None, f"{name}:{start}")

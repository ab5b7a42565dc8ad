"""Read subtitles: SubRip (.srt), WebVTT (.vtt), and the XML of OPUS."""

import re
from collections.abc import Iterator
from typing import Any

from ..corpus.entities import without_markup
from ..corpus.records import ByteStream
from ..corpus.xml_events import END, START, TEXT, read_xml
from .records import DialogReport, RawDialog, read_text

_TIME = r"(?:\d{1,3}:)?\d{1,2}:\d{2}[.,]"
TIMING = re.compile(rf"\s*{_TIME}\d{{1,3}}\s*-->\s*{_TIME}")
_CUE_TIME = re.compile(r"<\d{1,3}(?::\d{2}){1,2}[.,]\d{3}>")
_DASH = re.compile(r"\s*[-–—‐]\s*(?=\S)")
_GOES_ON = re.compile(r"(?:[^.!?…。！？\"'”’»)\]♪♫]|,)\s*$")
# The first turns identify a film: equal ones mean the same film.
_GROUP_TURNS = 5


def read_subtitles(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read a film, in which every turn answers those before it.

    Numbers, times, tags and notes are no text. Lines that begin with a dash are turns of their
    own. A subtitle that ends inside a sentence goes on in the next if that begins in lower case.
    """
    turns = list[str]()
    for lines in _cues(stream, name, report):
        for text in _split_speakers(lines):
            if turns and text[:1].islower() and _GOES_ON.search(turns[-1]):
                turns[-1] += f" {text}"
            else:
                turns.append(text)
    if turns:
        yield RawDialog(turns, "\n".join(turns[:_GROUP_TURNS]), f"{name}:1", True)


def _cues(stream: ByteStream, name: str, report: DialogReport) -> Iterator[list[str]]:
    """Yield the lines of text of each subtitle."""
    held, timed = list[str](), False
    for _, text in read_text(stream, name, report):
        if text is not None and TIMING.match(text):
            if timed and held:  # no blank line before: the last line is the number
                yield [line for line in held if not line.strip().isdigit()]
            held, timed = [], True
        elif text is None or not text.strip():
            if timed and held:
                yield held
            held, timed = [], False
        elif timed:
            line = without_markup(_CUE_TIME.sub("", text)).strip()
            if line:
                held.append(line)
    if timed and held:
        yield held


def _split_speakers(lines: list[str]) -> list[str]:
    if sum(_DASH.match(line) is not None for line in lines) < 2:
        return [" ".join(lines)]
    turns = list[str]()
    for line in lines:
        if _DASH.match(line) or not turns:
            turns.append(_DASH.sub("", line, count=1))
        else:
            turns[-1] += f" {line}"
    return turns


def read_opus(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read the XML of OPUS: ``<s>`` is a sentence, of text or of words ``<w>``.

    Every sentence answers those before it; a document ends where its element does, or the file.

    Raises:
        UserError: the XML is not well-formed, or declares entities.
    """
    turns, parts, words = list[str](), list[str](), list[str]()
    inside, in_word, first = False, False, 1
    for event in read_xml(stream, name):
        if event.kind == START and event.value == "s":
            inside, parts, words = True, [], []
            first = first if turns else event.line
        elif event.kind == START and event.value == "w":
            in_word = inside
            words += [""] if inside else []
        elif event.kind == END and event.value == "w":
            in_word = False
        elif event.kind == TEXT and inside:
            if in_word:
                words[-1] += event.value
            else:
                parts.append(event.value)
        elif event.kind == END and event.value == "s":
            inside = False
            text = _joined(words) if words else " ".join("".join(parts).split())
            if text:
                turns.append(text)
        elif event.kind == END and event.value in ("document", "text", "body") and turns:
            yield RawDialog(turns, "\n".join(turns[:_GROUP_TURNS]), f"{name}:{first}", True)
            turns = []
    if turns:
        yield RawDialog(turns, "\n".join(turns[:_GROUP_TURNS]), f"{name}:{first}", True)


_detokenizer: Any = None


def _joined(words: list[str]) -> str:
    """Return words as text, with punctuation where it belongs."""
    global _detokenizer
    if _detokenizer is None:
        import sacremoses

        _detokenizer = sacremoses.MosesDetokenizer("en")
    text: str = _detokenizer.detokenize([word.strip() for word in words if word.strip()])
    return text

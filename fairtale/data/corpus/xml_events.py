"""Read XML as a stream of events, guarded against entities that expand or point outside."""

import html
from collections.abc import Iterator
from typing import NamedTuple
from xml.parsers import expat

from ...errors import UserError
from .records import ByteStream

_BLOCK_BYTES = 1 << 16
_MAX_DEPTH = 200

START, END, TEXT = "start", "end", "text"


class Event(NamedTuple):
    """A tag or a piece of text."""

    kind: str  # START, END or TEXT
    value: str  # name of the element in lower case, without a namespace's prefix; or the text
    attributes: dict[str, str]  # of START; names in lower case, without a prefix
    line: int


class _Parser:
    """Collects the events of expat. Any declaration of an entity is refused."""

    def __init__(self, name: str) -> None:
        self.events: list[Event] = []
        self._name, self._depth = name, 0
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.UseForeignDTD(True)  # names of entities that are not declared reach the handler
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.SkippedEntityHandler = self._skipped
        parser.EntityDeclHandler = self._refuse
        parser.UnparsedEntityDeclHandler = self._refuse
        self.parser = parser

    def _refuse(self, *_: object) -> None:
        raise UserError(
            f"{self._name}:{self.parser.CurrentLineNumber}: it declares an entity, which may "
            "expand to any size or name another file; write the character itself"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UserError(f"{self._name}: elements nested deeper than {_MAX_DEPTH}")
        named = {_local(key): value for key, value in attributes.items()}
        self._add(START, _local(tag), named)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._add(END, _local(tag))

    def _text(self, text: str) -> None:
        self._add(TEXT, text)

    def _skipped(self, name: str, is_parameter: bool) -> None:
        if is_parameter:
            return
        entity = f"&{name};"
        character = html.unescape(entity)
        if character == entity:
            raise UserError(
                f"{self._name}:{self.parser.CurrentLineNumber}: unknown entity {entity}; write the "
                "character itself"
            )
        self._add(TEXT, character)

    def _add(self, kind: str, value: str, attributes: dict[str, str] | None = None) -> None:
        self.events.append(Event(kind, value, attributes or {}, self.parser.CurrentLineNumber))


def _local(name: str) -> str:
    return name.rsplit(":", 1)[-1].lower()


def read_xml(stream: ByteStream, name: str) -> Iterator[Event]:
    """Yield the events of an XML document in constant memory.

    Entities that HTML defines are replaced, whether or not the document declares a DTD, which is
    never loaded.

    Args:
        stream: a binary file.
        name: name of the file, for error messages.

    Raises:
        UserError: the document is not well-formed, declares an entity, or is nested too deeply.
    """
    reader = _Parser(name)
    try:
        while block := stream.read(_BLOCK_BYTES):
            reader.parser.Parse(block, False)
            yield from reader.events
            reader.events.clear()
        reader.parser.Parse(b"", True)
        yield from reader.events
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: not well-formed XML ({error}); write & and < as &amp; and &lt;") \
            from None  # fmt: skip

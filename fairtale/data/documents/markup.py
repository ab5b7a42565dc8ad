"""Turn HTML, FB2 and Markdown into plain text with a line for each paragraph.

Nothing is looked up, loaded or executed: scripts, styles and pictures are dropped, and an XML
document that declares entities of its own is refused.
"""

import html
import re
from html.parser import HTMLParser
from xml.parsers import expat

# Elements that begin and end a line.
_BLOCKS = frozenset(
    "address article aside blockquote br center dd div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section table tbody td tfoot th thead "
    "tr ul".split()
)
_HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
_INLINE = frozenset(
    "a abbr acronym b big cite code em font i img ins del kbd mark q s samp small span strike "
    "strong sub sup tt u var".split()
)
_PAGE = frozenset("html head body title meta link script style noscript template object".split())
# Elements whose content is not text of the work.
_DROPPED = frozenset(
    "head title script style noscript template object svg iframe select button textarea".split()
)
_NAMES = "|".join(sorted(_BLOCKS | _INLINE | _PAGE, key=lambda name: (-len(name), name)))
_TAG = re.compile(rf"</?(?:{_NAMES})(?:\s[^<>]*)?/?>|<!--", re.IGNORECASE)
_BLOCK_TAG = re.compile(
    rf"</?(?:{'|'.join(sorted(_BLOCKS, key=lambda n: (-len(n), n)))})(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
# Only complete entities: `AT&T;` or `&c.` in a text are left alone unless HTML knows the name.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class DamagedMarkup(ValueError):
    """A document that is not well-formed, or that declares entities."""


# ------------------------------------------------------------------------------ HTML


class _TextOfHtml(HTMLParser):
    """Collect the text of a page.

    Args:
        keep_lines: line breaks of the source are line breaks of the text, as in a text that has a
            few tags; otherwise they are spaces, as in a page.
    """

    def __init__(self, keep_lines: bool) -> None:
        super().__init__(convert_charrefs=True)
        self._keep_lines = keep_lines
        self.dropping = list[str]()  # names of open elements whose content is dropped
        self._preformatted = 0
        self.parts = list[str]()
        self.num_tags = 0
        self.headings = set[str]()
        self._heading_at: int | None = None  # index in parts where an open heading begins

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an element."""
        self.num_tags += 1
        if tag in _DROPPED:
            self.dropping.append(tag)
        elif tag == "body":
            self.dropping.clear()  # a head without an end
        elif tag in _BLOCKS:
            self.parts.append("\n")
            self._heading_at = len(self.parts) if tag in _HEADINGS else self._heading_at
        self._preformatted += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Handle an element without content, such as ``<br/>``."""
        self.num_tags += 1
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """End an element."""
        self.num_tags += 1
        if tag in self.dropping:
            while self.dropping.pop() != tag:
                pass
        elif tag in _BLOCKS:
            if tag in _HEADINGS and self._heading_at is not None:
                self.headings.add(_one_line("".join(self.parts[self._heading_at :])))
                self._heading_at = None
            self.parts.append("\n")
        self._preformatted = max(0, self._preformatted - (tag == "pre"))

    def handle_comment(self, data: str) -> None:
        """Drop a comment."""
        self.num_tags += 1

    def handle_data(self, data: str) -> None:
        """Collect text."""
        if self.dropping:
            return
        if not self._keep_lines and not self._preformatted:
            data = re.sub(r"[\r\n]+", " ", data)
        self.parts.append(data)


def has_tags(text: str) -> bool:
    """Return whether a text has HTML tags that are known, such as ``<p>`` or ``</i>``."""
    return "<" in text and _TAG.search(text) is not None


def html_text(text: str, is_page: bool) -> tuple[str, set[str], int]:
    """Return the text of HTML, its headings, and the number of tags that were removed.

    Args:
        text: a page, or a text with tags.
        is_page: line breaks of the source are spaces; False: only if the text has elements such
            as ``<p>`` that mark its paragraphs.

    Raises:
        DamagedMarkup: an element whose content is dropped, such as a script, has no end.
    """
    parser = _TextOfHtml(keep_lines=not is_page and _BLOCK_TAG.search(text) is None)
    parser.feed(text)
    parser.close()
    if parser.dropping:
        raise DamagedMarkup(f"<{parser.dropping[-1]}> is not closed")
    return "".join(parser.parts), parser.headings, parser.num_tags


def _one_line(text: str) -> str:
    return " ".join(text.split())


def unescape(text: str) -> tuple[str, int]:
    """Replace the entities of HTML in a plain text, and return their number.

    Only complete entities with a name or number that HTML defines are replaced, such as
    ``&mdash;`` and ``&#234;``.
    """
    if "&" not in text:
        return text, 0
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        character = html.unescape(match[0])
        count += character != match[0]
        return character

    return _ENTITY.sub(replace, text), count


# ------------------------------------------------------------------------------- FB2

# Elements of FictionBook that end a line of text.
_FB2_LINES = frozenset(
    "p v subtitle text-author date empty-line stanza cite poem epigraph title section td th".split()
)


class _TextOfFb2:
    """Collect the text of the bodies of a FictionBook, without its notes."""

    def __init__(self) -> None:
        self.parts = list[str]()
        self.num_tags = 0
        self.num_dropped = 0  # description, title, pictures, bodies of notes, references to notes
        self._path = list[str]()
        self._dropped_at = 0  # depth of the element that is dropped, or 0
        self._parser = expat.ParserCreate(encoding="utf-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data
        self._parser.EntityDeclHandler = self._refuse
        self._parser.ExternalEntityRefHandler = self._refuse
        self._parser.buffer_text = True

    def parse(self, text: str) -> None:
        """Parse the whole document."""
        try:
            self._parser.Parse(text.encode("utf-8"), True)
        except expat.ExpatError as error:
            raise DamagedMarkup(str(error)) from None

    @staticmethod
    def _refuse(*_: object) -> int:
        raise DamagedMarkup("the document declares entities")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rsplit(":", 1)[-1].lower()
        self.num_tags += 1
        self._path.append(name)
        if self._dropped_at:
            return
        depth = len(self._path)
        if (
            (name == "a" and attributes.get("type") == "note")
            or (depth == 2 and (name != "body" or "name" in attributes))
            or (depth == 3 and name == "title")  # author and title of the work
        ):
            self._dropped_at = depth
            self.num_dropped += 1

    def _end(self, name: str) -> None:
        if self._dropped_at == len(self._path):
            self._dropped_at = 0
        elif not self._dropped_at and self._path[-1] in _FB2_LINES:
            self.parts.append("\n")
        self._path.pop()

    def _data(self, text: str) -> None:
        if not self._dropped_at:
            self.parts.append(text.replace("\n", " "))


def fb2_text(text: str) -> tuple[str, int, int]:
    """Return the text of a FictionBook, the number of its tags, and that of its parts left out.

    The description, the title of the work, the pictures and the notes are left out.

    Raises:
        DamagedMarkup: the document is not well-formed XML, or it declares entities.
    """
    parser = _TextOfFb2()
    parser.parse(text)
    return "".join(parser.parts), parser.num_tags, parser.num_dropped


# -------------------------------------------------------------------------- Markdown

_FENCE = re.compile(r"^ {0,3}(?:```|~~~).*$", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*(?:[-*_=][ \t]*){3,}$", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6}(?:[ \t]+|$)(.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
_QUOTE = re.compile(r"^ {0,3}(?:>[ \t]?)+", re.MULTILINE)
_IMAGE = re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)")
_LINK = re.compile(r"\[([^\]\n]+)\]\([^)\n]*\)")
_DEFINITION = re.compile(r"^ {0,3}\[[^\]\n]+\]:[ \t]*\S+.*$", re.MULTILINE)
# One to three marks around a text that neither begins nor ends with white space, and that holds no
# blank line; underscores within a word, as in `snake_case`, mark nothing.
_STARS = re.compile(r"(\*{1,3})(?=[^\s*])((?:[^*\n]|\n(?![ \t]*\n))*?[^\s*])\1(?!\*)")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})(?=[^\s_])((?:[^_\n]|\n(?![ \t]*\n))*?[^\s_])\1(?!\w)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
# While marks are removed, an escaped character stands far behind all assigned characters.
_HIDDEN_AT = 0x10F800
_HIDDEN = re.compile(f"[{chr(_HIDDEN_AT)}-{chr(_HIDDEN_AT + 0x7F)}]")


def markdown_text(text: str) -> tuple[str, set[str], int]:
    """Return the text of Markdown, its headings, and the number of marks that were removed.

    Marks of headings, quotations, emphasis, links, pictures, rules and fences are removed; the
    words of headings, links and emphasis stay. Line breaks stay as they are.
    """
    text, num_escapes = _ESCAPE.subn(lambda match: chr(_HIDDEN_AT + ord(match[1])), text)
    text, count = _without(text, [(_FENCE, ""), (_RULE, ""), (_QUOTE, "")])
    titles = _HEADING.findall(text)
    inline = [
        (_DEFINITION, ""),
        (_IMAGE, ""),
        (_LINK, r"\1"),
        (_STARS, r"\2"),
        (_UNDERSCORES, r"\2"),
    ]
    text, num_headings = _HEADING.subn(r"\1", text)
    text, num_inline = _without(text, inline)
    headings = {_one_line(_shown(_without(title, inline)[0])) for title in titles}
    return _shown(text), headings, count + num_headings + num_inline + num_escapes


def _shown(text: str) -> str:
    return _HIDDEN.sub(lambda match: chr(ord(match[0]) - _HIDDEN_AT), text)


def _without(text: str, steps: list[tuple[re.Pattern[str], str]]) -> tuple[str, int]:
    """Replace patterns one after the other, and return the number of replacements."""
    count = 0
    for pattern, replacement in steps:
        text, found = pattern.subn(replacement, text)
        count += found
    return text, count

"""Replace entities by their characters, and remove tags from a line of text."""

import html
import re

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Names that Moses writes and HTML does not define.
_MOSES = {"&bar;": "|", "&bra;": "[", "&ket;": "]"}
# Tags of subtitles, forums and shops; `<3`, `a < b` and `<unk>` are no tags.
_TAG = re.compile(
    r"</?(?:i|b|u|s|em|strong|font|br|p|div|span|a|img|sub|sup|small|big|tt|code|pre|li|ul|ol|h[1-6]"
    r"|ruby|rt|c|v|hr|blockquote|center|strike|del|ins|q|table|tr|td|th|tbody)"
    r"(?:[\s.][^<>]{0,500})?/?>",
    re.IGNORECASE,
)
_LINE_BREAK = re.compile(r"<(?:br|/?p|/?div|/?li|/?tr|hr)\b[^<>]{0,500}>|\\N(?=\S)", re.IGNORECASE)
# `{\an8}` and `{\i1}` of SubStation, and `{y:i}` of MicroDVD.
_OVERRIDE = re.compile(r"\{(?:\\[^{}]*|[yYcCfFsS]:[^{}]*)\}")


def unescape(text: str) -> str:
    """Replace complete entities, by number or by a name of HTML or Moses; others stay.

    An entity for a character that is none (``&#0;``, a surrogate) stays as it is.
    """
    return _ENTITY.sub(_character, text) if "&" in text else text


def _character(match: re.Match[str]) -> str:
    entity = match[0]
    if entity[1] == "#":
        code = int(entity[3:-1], 16) if entity[2] in "xX" else int(entity[2:-1])
        if code < 32 and code not in (9, 10, 13) or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            return entity
        if not 0x80 <= code <= 0x9F:  # these numbers mean Windows-1252
            return chr(code)
    return _MOSES.get(entity) or html.unescape(entity)


def without_markup(text: str) -> str:
    """Return a text without entities and tags; a tag that breaks a line becomes a space.

    Entities that were escaped twice (``&amp;quot;``) are replaced too.
    """
    if not ("&" in text or "<" in text or "\\" in text or "{" in text):
        return text
    text = _OVERRIDE.sub("", _LINE_BREAK.sub(" ", text))
    text = unescape(unescape(_TAG.sub("", text)))
    return _TAG.sub("", _LINE_BREAK.sub(" ", text))


def has_markup(text: str) -> bool:
    """Return whether :func:`without_markup` would change a text."""
    return without_markup(text) != text

"""Read the SGML of WMT's test sets: documents of numbered segments."""

import html
import re
import xml.etree.ElementTree as ElementTree

from ...errors import UserError
from ..corpus.text_lines import read_text_lines

_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]{1,31});")
_XML_ENTITIES = frozenset(("amp", "lt", "gt", "quot", "apos"))
_BARE_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[0-9A-Fa-f]+);)")
# SGML allows an attribute without quotes, as in <seg id=1>; XML does not.
_BARE_VALUE = re.compile(r"""(?<=[\s])(\w+)\s*=\s*([^\s"'<>]+)(?=[\s>]|$)""")
_SPACED_VALUE = re.compile(r"""(\w+)\s*=\s*(["'])\s*([^"'<>]*?)\s*\2""")
_TAG = re.compile(r"<(\s*/?\s*)(\w+)((?:\s[^<>]*)?)>")


def read_sgm(path: str) -> dict[tuple[str, str], str]:
    """Return the segments of an SGML file, ``{(document, segment): text}``, in their order.

    Raises:
        UserError: the file cannot be parsed, a segment has no number, or two segments have the
            same number.
    """
    lines = [line for line in read_text_lines(path) if not line.lstrip().startswith("<?xml")]
    text = "\n".join(lines)
    if re.search(r"<!ENTITY", text, re.IGNORECASE):
        raise UserError(f"{path}: it declares an entity, which may expand to any size; remove it")
    text = _ENTITY.sub(_character, _TAG.sub(_regular_tag, text))
    try:
        root = ElementTree.fromstring(_BARE_AMPERSAND.sub("&amp;", text))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise UserError(
            f"{path}:{line}: not the SGML of a WMT set (column {column + 1}: {error.msg}); "
            "write a < in the text as &lt;"
        ) from None
    segments: dict[tuple[str, str], str] = {}
    for doc in root.iter():
        if doc.tag != "doc":
            continue
        name = doc.get("docid", doc.get("id"))
        for seg in doc.iter("seg"):
            number = seg.get("id")
            if name is None or number is None:
                raise UserError(
                    f"{path}: a segment without {'docid' if name is None else 'id'} "
                    f"in document {name}: {_short(seg)!r}"
                )
            key = (name, number)
            if key in segments:
                raise UserError(
                    f"{path}: document {name} has two segments {number}: keep one translation "
                    "in a file"
                )
            segments[key] = " ".join("".join(seg.itertext()).split())
    if not segments:
        raise UserError(f"{path}: no <seg> inside a <doc>: not the SGML of a WMT set")
    return segments


def _regular_tag(tag: re.Match[str]) -> str:
    """Return a tag in lower case, with quoted attributes and without spaces around them."""
    attributes = _BARE_VALUE.sub(r'\1="\2"', tag[3])
    attributes = _SPACED_VALUE.sub(lambda m: f"{m[1].lower()}={m[2]}{m[3]}{m[2]}", attributes)
    return f"<{''.join(tag[1].split())}{tag[2].lower()}{attributes}>"


def _character(entity: re.Match[str]) -> str:
    """Return the character of an entity that HTML defines and XML does not."""
    return entity[0] if entity[1] in _XML_ENTITIES else html.unescape(entity[0])


def _short(seg: ElementTree.Element) -> str:
    return "".join(seg.itertext()).strip()[:40]


def read_sgm_pair(source: str, reference: str) -> list[tuple[str, str]]:
    """Return ``[(source text, reference text)]`` of two files, in the order of the source.

    Raises:
        UserError: a segment is missing in one of the files.
    """
    sources, references = read_sgm(source), read_sgm(reference)
    for has, lacks, where in ((sources, references, reference), (references, sources, source)):
        missing = [key for key in has if key not in lacks]
        if missing:
            doc, seg = missing[0]
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(
                f"{where}: segment {seg} of document {doc} is missing{more}; "
                f"{source if has is sources else reference} has it: {has[missing[0]][:60]!r}"
            )
    return [(text, references[key]) for key, text in sources.items()]

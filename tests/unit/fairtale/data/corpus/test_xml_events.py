"""XML is read as events, and entities cannot expand or reach out."""

import io

import pytest

from fairtale.data.corpus import xml_events
from fairtale.data.corpus.xml_events import END, START, TEXT, read_xml
from fairtale.errors import UserError


def events(text, encoding="utf-8"):
    return list(read_xml(io.BytesIO(text.encode(encoding)), "x.xml"))


def test_tags_texts_and_attributes(monkeypatch):
    text = '<?xml version="1.0"?>\n<x:A xml:lang="en">é &amp; <B/>tail</x:A>'
    for block in (1, 1 << 16):
        monkeypatch.setattr(xml_events, "_BLOCK_BYTES", block)
        found = events(text)
        assert [(e.kind, e.value) for e in found if e.kind != TEXT] == [
            (START, "a"), (START, "b"), (END, "b"), (END, "a"),
        ]  # fmt: skip
        assert found[0].attributes == {"lang": "en"} and found[0].line == 2
        assert "".join(e.value for e in found if e.kind == TEXT) == "é & tail"


@pytest.mark.parametrize("begin", ["", '<!DOCTYPE a SYSTEM "a.dtd">'])
def test_entities_of_html_need_no_declaration(begin):
    texts = [e.value for e in events(f"{begin}<a>x&nbsp;&eacute;</a>") if e.kind == TEXT]
    assert "".join(texts) == "x\u00a0é"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>', "declares an entity"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "declares an entity"),
        ('<!DOCTYPE a [<!ENTITY % p SYSTEM "http://x/"> %p;]><a/>', "declares an entity"),
        ("<a>&nosuch;</a>", "unknown entity &nosuch;"),
        ("<a>" * 300, "deeper than 200"),
        ("<a><b></a>", "not well-formed XML"),
        ("", "not well-formed XML"),
        ("<a>R & D</a>", "not well-formed XML"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "not well-formed XML"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(UserError, match=f"x.xml.*{message}"):
        events(text)

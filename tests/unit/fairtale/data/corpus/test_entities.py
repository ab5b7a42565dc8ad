"""Entities become characters and tags go, but only real ones."""

import pytest

from fairtale.data.corpus.entities import has_markup, unescape, without_markup


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a&#232;b&#xE8; &quot;&apos;&nbsp;", "aèbè \"'\u00a0"),
        ("&bar; &bra;x&ket;", "| [x]"),
        ("&#12345678; &#xD800; &#1; &#1114112; &nosuchname; AT&T; R&D", None),
        ("&#150; &#x85;", "– …"),  # Windows-1252, as browsers read these numbers
    ],
)
def test_entities(text, expected):
    assert unescape(text) == (expected if expected is not None else text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<i>Hello</i>, <font color='#fff'>you</font>!", "Hello, you!"),
        ("One<br/>two<BR>three", "One two three"),
        ("{\\an8}Up there {y:i}now", "Up there now"),
        ("&lt;i&gt;Deep&lt;/i&gt; &amp;quot;quoted&amp;quot;", 'Deep "quoted"'),
        ("I <3 you & a < b > c, <unk> and {braces} \\o/", None),
    ],
)
def test_tags(text, expected):
    assert without_markup(text) == (expected or text)
    assert has_markup(text) == (expected is not None)

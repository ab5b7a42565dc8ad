"""Markup becomes plain text with a line for each paragraph."""

import pytest

from fairtale.data.documents.markup import (
    DamagedMarkup,
    fb2_text,
    has_tags,
    html_text,
    markdown_text,
    unescape,
)


def tidy(text):
    """The lines that are not blank, with single spaces."""
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


# ------------------------------------------------------------------------------ HTML

PAGE = """<!DOCTYPE html><html><head><title>A title</title>
<style>p { color: red }</style><script>if (a < b) alert("<p>x</p>")</script></head>
<body class="x"><h1>Head<b>ing</b></h1><p>One
line &amp; <i>two</i>&nbsp;words &mdash; &#1105;.<p>Next<br>line<!-- no -->s.
<ul><li>a</li><li>b</li></ul><noscript>no</noscript><img src="x" alt="no">
<select><option>no</option></select>
<pre>kept
lines</pre></body></html>"""


def test_a_page():
    text, headings, count = html_text(PAGE, is_page=True)
    assert tidy(text) == [
        "Heading",
        "One line & two words — ё.",
        "Next",
        "lines.",
        "a",
        "b",
        "kept",
        "lines",
    ]
    assert headings == {"Heading"} and count > 30


def test_a_few_tags_in_a_text_leave_its_lines():
    text, _, count = html_text("One <i>word</i>.\nTwo.<!-- x -->", is_page=False)
    assert (text, count) == ("One word.\nTwo.", 3)
    assert tidy(html_text("<p>One\nword.</p><p>Two.", is_page=False)[0]) == ["One word.", "Two."]


@pytest.mark.parametrize("text", ["a < b > c", "<Имя>", "<3", "<name>", "x<y", "<<<", "< p >"])
def test_what_is_no_known_tag_is_text(text):
    assert not has_tags(text)


@pytest.mark.parametrize("text", ["<p>", "a</i>", "<BR/>", "<a href='x'>", "<!-- x -->", "<h2 >"])
def test_known_tags(text):
    assert has_tags(text)


@pytest.mark.parametrize("tag", ["script", "style", "title", "noscript", "svg"])
def test_dropped_content_without_an_end_is_damage(tag):
    with pytest.raises(DamagedMarkup, match=f"<{tag}> is not closed"):
        html_text(f"<body>Text. <{tag}>and the rest", is_page=True)


def test_broken_html_is_read_all_the_same():
    text = html_text("<p>One</b></p></p> <i>two <p>three &nosuch; & <", is_page=True)[0]
    assert tidy(text) == ["One", "two", "three &nosuch; & <"]


def test_entities_of_plain_text():
    text = "G&#234;nes &mdash; &#x44F; AT&T; R&D &c. &amp;lt; &#0; &nosuch; &#99999999;"
    assert unescape(text) == ("Gênes — я AT&T; R&D &c. &lt; \ufffd &nosuch; &#99999999;", 5)
    assert unescape("no entities") == ("no entities", 0)


# ------------------------------------------------------------------------------- FB2

FB2 = """<?xml version="1.0" encoding="utf-8"?>
<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0" xmlns:l="http://www.w3.org/1999/xlink">
<description><title-info><author><first-name>Author</first-name></author></title-info></description>
<body><title><p>Author</p><p>Title</p></title>
<section><title><p>Chapter</p></title><p>One <emphasis>two</emphasis>
three<a l:href="#n1" type="note">[1]</a> &amp; <a l:href="http://x">link</a>.</p>
<empty-line/><poem><stanza><v>Verse one,</v><v>verse two.</v></stanza></poem></section></body>
<body name="notes"><section id="n1"><p>A note.</p></section></body>
<binary id="cover.jpg" content-type="image/jpeg">aGVsbG8=</binary></FictionBook>"""


def test_fb2():
    text, num_tags, num_parts = fb2_text(FB2)
    assert tidy(text) == ["Chapter", "One two three & link.", "Verse one,", "verse two."]
    assert (num_tags, num_parts) == (25, 5)


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    "<FictionBook><body><p>&b;</p></body></FictionBook>"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<FictionBook><body><p>cut", "no element found|unclosed"),
        ("no XML at all", "syntax error"),
        ("<FictionBook><body><p>&nosuch;</p></body></FictionBook>", "undefined entity"),
        (BOMB, "declares entities"),
        (BOMB.replace('a "ha"', 'a SYSTEM "file:///etc/passwd"'), "declares entities"),
        (BOMB.replace('<!ENTITY a "ha">', '<!ENTITY % a SYSTEM "http://x/y.dtd">'), "entit"),
    ],
)
def test_damaged_or_hostile_fb2(text, words):
    with pytest.raises(DamagedMarkup, match=words):
        fb2_text(text)


# -------------------------------------------------------------------------- Markdown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title #\n\nText.", "Title\n\nText."),
        ("##\nText.", "\nText."),
        ("*one* **two** ***three*** _four_ __five__", "one two three four five"),
        ("*two\nlines*", "two\nlines"),
        ("2 * 3 * 4 and snake_case_name and a_b_", "2 * 3 * 4 and snake_case_name and a_b_"),
        ("* item\n\nanother * star", "* item\n\nanother * star"),
        ("*not\n\nemphasis*", "*not\n\nemphasis*"),
        ("[words](http://x.y/z) and ![picture](a.png)", "words and "),
        ("[1] is no link (but)", "[1] is no link (but)"),
        ("> quoted\n> > twice", "quoted\ntwice"),
        ("a\n---\nb\n* * *\nc\n```py\ncode\n```", "a\n\nb\n\nc\n\ncode\n"),
        ("[ref]: http://x.y 'T'\nText.", "\nText."),
        (r"\*stars\* and \# and \n", r"*stars* and # and \n"),
        ("# *One* [two](x)", "One two"),
    ],
)
def test_markdown(text, expected):
    found, headings, count = markdown_text(text)
    assert found == expected
    assert (count > 0) == (text != expected)
    if text.startswith("# "):
        assert headings == {expected.split("\n")[0]}

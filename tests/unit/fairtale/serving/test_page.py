"""The page as the service sends it: one response, strict rules, and names for everything."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from fairtale.serving import page as page_module
from fairtale.serving.page import FOLDER, page

VOID = {"meta", "link", "input", "br"}
FILES = sorted(FOLDER.iterdir())
SCRIPTS = "\n".join(p.read_text(encoding="utf-8") for p in FILES if p.suffix == ".js")
STYLES = "\n".join(p.read_text(encoding="utf-8") for p in FILES if p.suffix == ".css")


class Tree(HTMLParser):
    """The elements of a page as (tag, attributes, text); an end tag must close what is open."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = [tag, dict(attrs), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, *tags):
        return [(attrs, text) for tag, attrs, text in self.elements if tag in tags]


@pytest.fixture(scope="module")
def tree():
    return Tree(page().body.decode("utf-8"))


def directives():
    parts = page().headers["Content-Security-Policy"].split("; ")
    return {name: values for name, *values in (part.split(" ") for part in parts)}


def test_it_is_one_small_response_without_an_address(tree):
    text = page().body.decode("utf-8")
    assert text.startswith("<!doctype html>") and len(page().body) < 100_000
    addresses = set(re.findall(r"[a-z]+://[^\s'\"<>]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a vocabulary: nobody asks it
    assert "@import" not in text and not re.search(r"url\((?!data:)", text)
    loaded = [a for tag, a, _ in tree.elements for name in ("src", "href") if name in a]
    assert [a["href"][:5] for a in loaded] == ["data:", "#fiel"]


def test_the_policy_names_every_script_and_style_by_its_hash(tree):
    found = {"script": tree.all("script"), "style": tree.all("style")}
    for tag, elements in found.items():
        digests = [hashlib.sha256(text.encode()).digest() for _, text in elements]
        expected = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        assert directives()[f"{tag}-src"] == expected and len(expected) >= 3
    assert directives()["default-src"] == ["'none'"]
    assert directives()["connect-src"] == ["'self'"]
    assert "unsafe" not in page().headers["Content-Security-Policy"]


def test_a_file_cannot_end_its_own_element(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text('<script src="a.js"></script>')
    (tmp_path / "a.js").write_text("x = '</SCRIPT>'")
    monkeypatch.setattr(page_module, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"a\.js would end its own element"):
        page.__wrapped__()


def test_nothing_becomes_code_or_html():
    words = r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|\beval\b|new Function"
    assert not re.search(words, SCRIPTS)
    assert not re.search(r"\son\w+=", (FOLDER / "page.html").read_text(encoding="utf-8"))


def test_every_element_that_is_named_exists_once(tree):
    ids = [attrs["id"] for _, attrs, _ in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 30
    named = {
        value
        for _, attrs, _ in tree.elements
        for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls")
        for value in attrs.get(name, "").split()
    }
    named |= set(re.findall(r'\$\("([\w-]+)"\)', SCRIPTS))
    named |= {attrs["href"][1:] for attrs, _ in tree.all("a")}
    made = {"field"}  # by the view
    assert named - made <= set(ids)
    assert all(f'id: "{name}"' in SCRIPTS for name in made)


def test_every_control_and_landmark_has_a_name(tree):
    labels = {attrs.get("for") for attrs, _ in tree.all("label")}
    for attrs, text in tree.all("button", "input", "select", "nav", "aside", "main", "dialog"):
        name = attrs.get("aria-label") or attrs.get("aria-labelledby") or text.strip()
        assert name or attrs.get("id") in labels, attrs
    for attrs, _ in tree.all("button"):
        assert attrs.get("type") in ("button", "submit")
    assert [attrs["lang"] for attrs, _ in tree.all("html")] == ["en"]
    roles = [attrs.get("role") for _, attrs, _ in tree.elements]
    assert {"status", "alert", "log"} <= set(roles)
    assert len(tree.all("main")) == len(tree.all("h1")) == len(tree.all("title")) == 1


def luminance(colour):
    """Source: WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read(scheme):
    block = re.findall(r":root \{(.*?)\}", STYLES, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", block))
    for ink in ("ink", "muted", "accent", "error"):
        for ground in ("paper", "side", "raised", "said"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    assert contrast(colours["edge"], colours["paper"]) >= 3
    assert round(contrast("#000", "#fff")) == 21


def test_its_files_are_small_enough_to_read_at_once():
    lines = {path.name: path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert len(lines) >= 8 and {name for name, n in lines.items() if n > 400} == set()
    starts = [m.start() for m in re.finditer(r"^(?:async )?function", SCRIPTS, re.MULTILINE)]
    assert max(SCRIPTS.count("\n", a, b) for a, b in pairwise(starts)) <= 80

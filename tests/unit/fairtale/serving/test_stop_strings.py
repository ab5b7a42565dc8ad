"""Stop strings: never shown in part, and independent of the parts of the text."""

import pytest

from fairtale.serving.stop_strings import StopStrings


def parts(stops, pieces):
    """Return what is shown of each piece, and whether a stop string was found."""
    search, shown = StopStrings(stops), []
    for piece in pieces:
        text, found = search.add(piece)
        shown.append(text)
        if found:
            return shown, True
    return [*shown, search.end()], False


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (("END",), "the END of", "the "),
        (("END",), "the EN", "the EN"),
        (("b", "abc"), "xabc", "xa"),  # complete before abc is
        (("bc", "abc"), "xabc", "x"),  # complete together: the longer one
        (("aab",), "aaab", "a"),
        (("\n\n", "кот"), "пёс\nкот", "пёс\n"),
        ((), "anything", "anything"),
    ],
)
def test_any_parts_give_the_same_text(stops, text, expected):
    for size in range(1, len(text) + 1):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        shown, found = parts(stops, pieces)
        assert ("".join(shown), found) == (expected, expected != text)


def test_a_beginning_is_held_back():
    assert parts(["stop", "top!"], ["a s", "to", "ps", "x"])[0] == ["a ", "", ""]
    assert parts(["stop"], ["a s", "tox"]) == (["a ", "stox", ""], False)

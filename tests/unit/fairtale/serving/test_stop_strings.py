"""Stop strings in growing texts."""

import itertools
import random

import pytest

from fairtale.serving.stop_strings import StopStrings


def through(stop, parts, minimum=0):
    """Return the shown parts, and whether the text was ended."""
    stops, shown = StopStrings(stop), []
    for number, part in enumerate(parts, 1):
        text, ended = stops.add(part, may_end=number >= minimum)
        shown.append(text)
        if ended:
            return shown, True
    return [*shown, stops.end()], False


def test_a_string_may_span_several_parts():
    assert through(["</p>"], ["a<", "/", "p", ">b"]) == (["a", "", "", ""], True)
    assert through(["</p>"], ["a<", "/", "b>"]) == (["a", "", "</b>", ""], False)
    assert through(["</p>"], ["a<", "/"]) == (["a", "", "</"], False)
    assert through([], ["a<", "/"]) == (["a<", "/", ""], False)


def test_a_string_may_begin_again_in_its_own_beginning():
    assert through(["aab"], ["a", "a", "a", "b"]) == (["", "", "a", ""], True)
    assert through(["\n\nB", "\nA"], ["x\n", "\n", "A"]) == (["x", "", "\n"], True)


def test_the_string_that_is_complete_first_counts():
    for parts in (["xabc"], ["x", "a", "b", "c"]):
        shown, ended = through(["abc", "b"], parts)
        assert ("".join(shown), ended) == ("xa", True)
        assert "".join(through(["bc", "abc"], parts)[0]) == "x"  # it begins first


def test_before_the_minimum_a_string_is_text():
    assert through(["b"], ["ab", "ab", "ab"], minimum=3) == (["ab", "ab", "a"], True)
    # its last part counts
    assert through(["abc"], ["xa", "b", "c"], minimum=3) == (["x", "", ""], True)


@pytest.mark.parametrize("seed", range(5))
def test_any_parts_show_the_text_before_the_first_string(seed):
    draw = random.Random(seed)
    for _ in range(400):
        stop = [
            "".join(draw.choices("ab", k=draw.randint(1, 4))) for _ in range(draw.randint(1, 3))
        ]
        text = "".join(draw.choices("abc", k=12))
        cuts = sorted(draw.choices(range(13), k=4))
        parts = [text[i:j] for i, j in itertools.pairwise([0, *cuts, 12])]
        shown, ended = through(stop, parts)
        ends = [text.index(s) + len(s) for s in stop if s in text]
        assert ended == bool(ends)
        if ended:
            begin = min(text.index(s) for s in stop if text[: min(ends)].endswith(s))
            assert "".join(shown) == text[:begin]
        else:
            assert "".join(shown) == text

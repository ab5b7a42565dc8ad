"""Cleaning of turns, and which dialogs are left out."""

import pytest

from fairtale.data.dialog.cleaning import (
    Cleaning,
    choose_turns,
    clean_turn,
    remove_asides,
    strip_outer_punctuation,
    whole_characters,
)
from fairtale.data.dialog.records import DialogReport


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[music] Hello (sad).", "Hello."),
        ("(laughs)", ""),
        ("a (b [c] (d)) e", "a e"),
        ("Katherine(Teri Hatcher) helps", "Katherine helps"),
        ("a(b)c", "a c"),
        ("He left (finally), then {sighs} came.", "He left, then came."),
        ("（웃음）안녕", "안녕"),
        ("I lost it :( but it is fine :)", "I lost it :( but it is fine :)"),
        ("one (two", "one (two"),
        ("1) one 2) two", "1) one 2) two"),
        ("<SEP> is text", "<SEP> is text"),
    ],
)
def test_asides(text, expected):
    assert remove_asides(text) == expected


def test_whole_characters():
    for text, whole in [
        ("hello \ud83d there", "hello  there"),
        ("\ude00 a \ud83d", " a "),
        ("\ud83d\ud83d\ude00!", "\U0001f600!"),
        ("na\u00efve \U0001f600", "na\u00efve \U0001f600"),
    ]:
        assert whole_characters(text) == whole
    assert clean_turn("hello \ud83d there \ud83d\ude00", Cleaning()) == "hello there \U0001f600"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- Hello.", "Hello."),
        ("-- What?!", "What?!"),
        ("— Да…", "Да…"),
        (">> And now...", "And now..."),
        ("...and then", "and then"),
        ("...5 minutes", "5 minutes"),
        ("-5 degrees", "-5 degrees"),
        (".5 inch", ".5 inch"),
        ("I was going to--", "I was going to"),
        ("Well, yes,", "Well, yes"),
        ("# I love you #", "I love you"),
        ("♪ la la ♪", "la la"),
        ("#1 fan", "#1 fan"),
        ("*laughs* ok", "*laughs* ok"),
        ('"Oh, Andy!"', "Oh, Andy!"),
        ('- "No, no."', "No, no."),
        ("“Hi”", "Hi"),
        ("„Hallo“", "Hallo"),
        ("«Да»", "Да"),
        ("'I don't know.'", "I don't know."),
        ('"Titanic" is good', '"Titanic" is good'),
        ('"Good," she said, "morning"', '"Good," she said, "morning"'),
        ('"A", B", "C" are good', '"A", B", "C" are good'),
        ('"Hi there', "Hi there"),
        ('Hi there"', "Hi there"),
        ('It is 36"', 'It is 36"'),
        ("'cause I said so", "'cause I said so"),
        ("I was playin'", "I was playin'"),
        ("¿Qué?", "¿Qué?"),
        ("ok :)", "ok :)"),
        (":)", ":)"),
        ("?", "?"),
        ("...", ""),
        ("- - -", ""),
        ('""', ""),
        ("", ""),
    ],
)
def test_outer_punctuation(text, expected):
    assert strip_outer_punctuation(text) == expected


def test_a_turn_is_one_line_without_tabs():
    assert clean_turn(" a\tb\r\n\u2028c\x00d\ue000 \ud83d", Cleaning()) == "a b cd\ue000"
    plain = Cleaning(remove_asides=False, strip_punctuation=False)
    assert clean_turn("- (a)\t-", plain) == "- (a) -"
    assert clean_turn("- [a] (b", Cleaning(strip_punctuation=False)) == "- (b"
    assert clean_turn("- (a) b", Cleaning(remove_asides=False)) == "(a) b"


@pytest.mark.parametrize("text", ["(" * 300_000, '" #-' * 80_000, "([{" * 60_000 + ")]}" * 60_000])
def test_long_nonsense_is_cleaned_in_no_time(text):
    # Quadratic work would take minutes here.
    assert len(clean_turn(text, Cleaning(max_chars=10**6))) <= len(text)


def test_a_turn_that_is_far_too_long_is_left_as_it_is():
    # one pass for each sign at the end would take minutes
    for count, expected in ((5_000, 1), (200_000, 400_001)):
        assert len(clean_turn("a" + " #" * count, Cleaning(max_chars=512))) == expected


def choose(*turns, **options):
    report = DialogReport()
    return choose_turns(list(turns), Cleaning(**options), "f:1", report), report


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (("one",), "a single turn, so no response"),
        (("", "b"), "empty query"),
        (("a", ""), "empty response"),
        (("a", "x" * 513), "response of more than 512 characters"),
        (("x" * 513, "a"), "query of more than 512 characters"),
        (("same", "same"), "response equals query"),
    ],
)
def test_left_out(turns, reason):
    chosen, report = choose(*turns)
    assert chosen is None
    assert report.skipped == {reason: 1} and report.places == {reason: ["f:1"]}


def test_limits_are_options():
    assert choose("same", "same", allow_equal=True)[0] == ["same", "same"]
    assert choose("x" * 512, "a")[0] == ["x" * 512, "a"]
    chosen, report = choose("why", "no", min_chars=3)
    assert chosen is None and report.skipped == {"response of fewer than 3 characters": 1}
    chosen, report = choose("why", "nope", max_chars=3)
    assert chosen is None and report.skipped == {"response of more than 3 characters": 1}


def test_context_is_cut_from_its_far_end():
    assert choose("1", "2", "3", "q", "r", max_context_turns=2)[0] == ["2", "3", "q", "r"]
    assert choose("1", "2", "3", "q", "r", max_context_turns=0)[0] == ["q", "r"]
    chosen, report = choose("1", "x" * 513, "", "3", "q", "r")
    assert chosen == ["3", "q", "r"]
    assert dict(report.amounts) == {
        "turns without words dropped": 1,
        "context cut where a turn is too long": 1,
    }

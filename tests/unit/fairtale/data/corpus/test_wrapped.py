"""Lines that were wrapped at a fixed width become paragraphs again; verse and lists stay."""

import textwrap

import pytest

from fairtale.data.corpus.wrapped import paragraphs, read_lines, wrapping_width

PROSE = [
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the "
    "season of Light, it was the season of Darkness, it was the spring of hope.",
    "“Yes,” he said.",
    "We had everything before us, we had nothing before us, we were all going direct to Heaven, "
    "we were all going direct the other way - in short, the period was so far like the present "
    "period, that some of its noisiest authorities insisted on its being received, for good or "
    "for evil, in the superlative degree of comparison only.",
    "“No.”",
    "There were a king with a large jaw and a queen with a plain face, on the throne of England; "
    "there were a king with a large jaw and a queen with a fair face, on the throne of France.",
]
VERSE = [f"Shall I compare thee to a {n * 'very '}fine summer's day, so long" for n in range(5)]


def unwrapped(text):
    lines = read_lines(text)
    return paragraphs(lines, wrapping_width(lines))[0]


@pytest.mark.parametrize("width", [55, 60, 72, 78, 100])
@pytest.mark.parametrize(
    ("first", "rest", "between"),
    [("", "", "\n\n"), ("    ", "", "\n"), ("       ", "  ", "\n"), ("   ", " ", "\n\n")],
)
def test_paragraphs_are_joined(width, first, rest, between):
    wrapped = [
        textwrap.fill(
            p, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        )
        for p in PROSE * 2
    ]
    assert unwrapped(between.join(wrapped)) == PROSE * 2


def test_short_last_lines_end_paragraphs_without_any_other_sign():
    wrapped = "\n".join(textwrap.fill(p, 72) for p in PROSE)
    assert "“Yes,” he said." in unwrapped(wrapped) and "“No.”" in unwrapped(wrapped)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(PROSE * 4),  # a paragraph a line
        "\n".join(VERSE * 3),
        "\n".join(["Whose woods these are I think I know."] * 20),  # narrow
        "\n".join(textwrap.fill(PROSE[0], 72).split("\n")[:3]),  # few lines
        "\n".join(["word " * 30] * 20),  # wide
    ],
)  # fmt: skip
def test_other_texts_keep_their_lines(text):
    assert wrapping_width(read_lines(text)) is None
    assert unwrapped(text) == [line.strip() for line in text.split("\n") if line.strip()]


def test_verse_within_wrapped_prose_keeps_its_lines():
    verse = ["Twinkle, twinkle, little star,", "How I wonder what you are."]
    text = "\n\n".join([*(textwrap.fill(p, 72) for p in PROSE), "\n".join(verse)])
    assert unwrapped(text) == [*PROSE, *verse]


def test_hyphens_at_the_ends_of_lines_are_kept():
    lines = read_lines("\n".join([textwrap.fill(PROSE[2], 72), "x " * 35 + "кое-", "как жил."]))
    joined = paragraphs(lines, 72)[0]
    assert joined[-1].endswith("кое-как жил.")

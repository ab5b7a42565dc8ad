"""Figures of replies against hand-computed ones, and the reading of candidates."""

import pytest

from fairtale.data.dialog.reply_metrics import DialogScorer, read_candidates
from fairtale.errors import UserError


@pytest.fixture(scope="module")
def scorer():
    return DialogScorer("13a")


def test_words_are_lower_case_without_punctuation(scorer):
    assert scorer.words("Well, I'm 12 (twelve)...") == ["well", "i'm", "12", "twelve"]
    assert scorer.words("?!") == []


def test_distinct(scorer):
    replies = ["I do not know.", "i do not know", "Yes, I do!", ""]
    # 11 words, 5 of them different; bigrams 3 + 3 + 2 = 8: i-do, do-not, not-know, yes-i
    assert scorer.distinct(replies, 1) == 5 / 11
    assert scorer.distinct(replies, 2) == 4 / 8
    assert scorer.distinct(["one"], 2) == 0


def test_f1(scorer):
    # two of three words, two of four: precision 2/3, recall 1/2
    assert scorer.f1("the red dog", "The dog is old") == pytest.approx(4 / 7)
    # each word counts as often as it stands on both sides
    assert scorer.f1("no no no", "no no yes") == pytest.approx(2 / 3)
    assert scorer.f1("", "yes") == 0 and scorer.f1("...", "") == 1


def test_scores(scorer):
    perfect = scorer.score(["Yes, it fits well.", "Why?"], ["Yes, it fits well.", "Why?"])
    assert perfect.bleu == pytest.approx(100) and perfect.chrf == pytest.approx(100)
    assert perfect.f1 == 100 and perfect.mean_length == 2.5
    assert perfect.distinct_1 == perfect.distinct_2 == 100
    # one 4-gram, 2 3-grams, 3 bigrams, 4 words of 5 are right: (4/5 * 3/4 * 2/3 * 1/2) ** 1/4
    half = scorer.score(["a b c d x"], ["a b c d e"])
    assert half.bleu == pytest.approx(100 * 0.2**0.25)
    assert half.f1 == pytest.approx(80)
    nothing = scorer.score([""], ["a b"])
    assert nothing.bleu == 0 and nothing.f1 == 0 and nothing.distinct_1 == 0


def test_the_signature_names_all_settings(scorer):
    scorer.score(["a"], ["a"])
    line = scorer.signature(3)
    for part in ("BLEU|nrefs:1|", "tok:13a", "chrF|", "nc:6", "version:", "case:lower", "nbest:3"):
        assert part in line
    chars = DialogScorer("char")
    chars.score(["ab"], ["ab"])
    assert chars.words("왜 ab?") == ["왜", "a", "b"]
    assert "words|tok:char" in chars.signature(1)


def test_an_unknown_tokenizer():
    with pytest.raises(UserError, match="--tokenize 14a: must be one of .*13a"):
        DialogScorer("14a")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


GENERATED = """\
2026-01-01 | INFO | loading
S-1\tb b
T-1\tbee
H-1\t-0.5\t▁be e
D-1\t-0.5\tbee
H-1\t-0.7\t▁wa sp
D-1\t-0.7\twasp\twith a tab
S-0\ta a
H-0\t-0.1\t▁a nt
D-0\t-0.1\tant
H-0\t-1.5\t
D-0\t-1.5\t
Generate valid with beam=2
"""


def test_output_of_fairseq_generate(tmp_path):
    path = write(tmp_path / "out", GENERATED)
    assert read_candidates(path, None) == [["ant", ""], ["bee", "wasp\twith a tab"]]
    assert read_candidates(path, 1) == [["ant"], ["bee"]]
    pieces = write(
        tmp_path / "pieces", "".join(x for x in GENERATED.splitlines(True) if x[0] != "D")
    )
    assert read_candidates(pieces, None)[0] == ["▁a nt", ""]
    with pytest.raises(UserError, match="dialog 1 has 2 candidates, not 3"):
        read_candidates(path, 3)


def test_plain_lines(tmp_path):
    path = write(tmp_path / "hyp", "a\n\nc\nd\n")
    assert read_candidates(path, None) == [["a"], [""], ["c"], ["d"]]
    assert read_candidates(path, 2) == [["a", ""], ["c", "d"]]
    with pytest.raises(UserError, match="4 lines are not a multiple of --nbest 3"):
        read_candidates(path, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no reply"),
        ("S-0\ta\nT-0\tb\n", "without H- or D- lines"),
        ("H-0\t-1\ta\nH-2\t-1\tb\n", "no reply to dialog 1 of 3"),
        ("H-0\t-1\ta\nH-1\t-1\tb\nH-1\t-1\tc\n", "dialog 1 has 2 candidates, not 1"),
    ],
)
def test_incomplete_output(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_candidates(write(tmp_path / "out", text), None)

"""Filtering of pairs, and removal of held-out pairs from the training data."""

import numpy as np
import pytest

from fairtale.data.corpus.report import TOO_LONG
from fairtale.data.parallel.cleaning import (
    EMPTY_SIDE,
    RATIO,
    SAME,
    HeldOut,
    PairCleaner,
    PairIndex,
    choose,
    digest,
)
from fairtale.data.parallel.text import LanguageText, TextSettings
from fairtale.errors import UserError


@pytest.fixture(scope="module")
def clean():
    sides = (LanguageText(lang, TextSettings()) for lang in ("en", "ru"))
    return PairCleaner(*sides, max_words=8, max_ratio=2.0)


def test_a_pair_is_mended_and_tokenised(clean):
    assert clean(" Caf&#233;,\u00a0he  said.", "Кафе&#x301;, сказал он.") == (
        "Café , he said .",
        "Кафе , сказал он .",
        "Café, he said.",
        "Кафе, сказал он.",
    )


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("", "Да", EMPTY_SIDE),
        ("Yes", " \u200b ", EMPTY_SIDE),
        ("abc 1", "abc  1", SAME),
        ("a b c d e f g h i", "а б в г д е ё", TOO_LONG),
        ("a, b, c, d, e", "а б в г д е", TOO_LONG),  # eight words with their commas are nine tokens
        ("a b c", "а", RATIO),
        ("a", "а б в", RATIO),
    ],
)
def test_what_is_left_out(clean, source, target, reason):
    assert clean(source, target) == reason


def test_the_bounds_themselves_are_kept(clean):
    assert isinstance(clean("a b c d e f g h", "а б в г"), tuple)
    assert isinstance(clean("12.", "12."), tuple)  # no letter: nothing to translate


_MARKED_UP = (
    "A <i>&quot;b&quot;</i> &bar; c &amp; d",
    "А <i>&quot;б&quot;</i> &bar; в &amp; д",
)


@pytest.mark.parametrize(
    ("markup", "source", "target"),
    [
        ("entities", 'A <i>"b"</i> | c & d', 'А <i>"б"</i> | в & д'),
        ("clean", 'A "b" | c & d', 'А "б" | в & д'),
        (
            "keep",
            "A <i>&quot;b&quot;</i> &bar; c &amp; d",
            "А <i>&quot;б&quot;</i> &bar; в &amp; д",
        ),
    ],
)
def test_entities_and_tags(markup, source, target):
    sides = (LanguageText(lang, TextSettings()) for lang in ("en", "ru"))
    cleaner = PairCleaner(*sides, max_words=80, max_ratio=2.0, markup=markup)
    pair = cleaner(*_MARKED_UP)
    assert (pair.source, pair.target) == (source, target)


def index_of(pairs):
    index = PairIndex()
    for pair in pairs:
        index.add(*pair)
    return index


def test_digests_ignore_capitals():
    assert digest("Да Нет") == digest("да нет") != digest("данет")
    source, target, pair = index_of([("a", "b"), ("b", "a"), ("A", "B")]).arrays()
    assert source.dtype == target.dtype == pair.dtype == np.uint64
    assert pair[0] == pair[2] != pair[1] and len(set(pair.tolist())) == 2


def test_only_the_first_of_equal_pairs_stays():
    pairs = [("a", "1"), ("b", "2"), ("A", "1"), ("a", "2"), ("a", "1")]
    valid, leaking, duplicate = choose(index_of(pairs), HeldOut(), 0, seed=1)
    assert not valid.any() and not leaking.any()
    assert duplicate.tolist() == [False, False, True, False, True]


def test_lines_of_held_out_sets_leak():
    held_out = HeldOut()
    held_out.add("this line has five words", "а в этой четыре")
    held_out.add("Yes .", "Да .")
    pairs = [
        ("This line has five words", "x"),  # its source
        ("y", "А в этой четыре"),  # its target
        ("а в этой четыре", "this line has five words"),  # the other way round: no
        ("yes .", "да ."),  # a short pair
        ("Yes .", "Так ."),  # one short side
    ]
    _, leaking, _ = choose(index_of(pairs), held_out, 0, seed=1)
    assert leaking.tolist() == [True, True, False, True, False]


def test_nothing_of_the_valid_pairs_is_left_in_training():
    draw = np.random.default_rng(0)
    pairs = [(f"s{draw.integers(99)}", f"t{draw.integers(99)}") for _ in range(90)]
    pairs += [(f"twice{n}", f"twice{n}") for n in range(20)] * 2
    valid, leaking, duplicate = choose(index_of(pairs), HeldOut(), 5, seed=1)
    assert valid.sum() == 5 and not (valid & duplicate).any()
    for side in (0, 1):
        held = {pair[side] for pair, is_valid in zip(pairs, valid) if is_valid}
        assert len(held) == 5
        # also where duplicates are kept
        rest = {pair[side] for pair, is_valid in zip(pairs, valid) if not is_valid}
        assert not held & rest
    again, *_ = choose(index_of(pairs), HeldOut(), 5, seed=1)
    other, *_ = choose(index_of(pairs), HeldOut(), 5, seed=2)
    assert (again == valid).all() and (other != valid).any()


def test_the_choice_does_not_hang_on_the_order():
    pairs = [(f"s{n}", f"t{n}") for n in range(50)]
    valid, *_ = choose(index_of(pairs), HeldOut(), 7, seed=3)
    turned, *_ = choose(index_of(pairs[::-1]), HeldOut(), 7, seed=3)
    assert (turned[::-1] == valid).all()


def test_too_few_pairs_to_hold_out():
    pairs = [("a", "1"), ("b", "2"), ("b", "3"), ("c", "2")]
    message = "--valid-size 1: only 1 of 4 pairs have sides that occur once"
    with pytest.raises(UserError, match=message):
        choose(index_of(pairs), HeldOut(), 1, seed=1)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "我们明天和{}个老朋友一起去北京看长城。"),
        ("ja", "私たちは明日{}人の古い友達と一緒に京都へ行きます。"),
        ("th", "พรุ่งนี้เราจะไปเที่ยวเชียงใหม่กับเพื่อนเก่า{}คน"),
        ("km", "ថ្ងៃស្អែកយើងនឹងទៅភ្នំពេញជាមួយមិត្តចាស់{}នាក់"),
        ("my", "မနက်ဖြန်ငါတို့သူငယ်ချင်းဟောင်း{}ယောက်နဲ့ရန်ကုန်ကိုသွားမယ်"),
        ("lo", "ມື້ອື່ນພວກເຮົາຈະໄປວຽງຈັນກັບໝູ່ເກົ່າ{}ຄົນ"),
    ],
)
@pytest.mark.parametrize("tokenizer", ["moses", "none"])
def test_lengths_without_spaces(language, text, tokenizer):
    sides = (LanguageText(x, TextSettings(tokenizer=tokenizer)) for x in ("en", language))
    cleaner = PairCleaner(*sides, max_words=60, max_ratio=3.0)
    english = "Tomorrow we are going to the city together with {} of our old friends."
    assert not isinstance(cleaner(english.format(3), text.format(3)), str)
    assert cleaner(english.format(3) * 4, text.format(3)) == RATIO
    assert cleaner("Yes.", text.format(3)) == RATIO
    assert cleaner(english.format(3), text.format(3) * 12) == TOO_LONG


def test_long_lines_without_spaces_leak_too():
    held_out, index = HeldOut(), PairIndex()
    held_out.add("We go home .", "我们明天和三个老朋友一起去北京看长城。")
    index.add("Another side of it .", "我们明天和三个老朋友一起去北京看长城。")
    index.add("Yes .", "是。")
    held_out.add("No .", "是。")
    assert held_out.leaks(index.arrays()).tolist() == [True, False]

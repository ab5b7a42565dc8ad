"""Text to Moses tokens and back, and the settings beside the data."""

import json

import pytest

from fairtale.data.parallel.text import (
    LanguageText,
    ParallelText,
    TextSettings,
    clean_line,
    default_tokenizer,
    find_settings,
    write_settings,
)
from fairtale.errors import UserError


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (" a\tb  c\u00a0d\u2028e ", "a b c d e"),
        ("a\x00b\x9fc", "a b c"),
        ("so\u00adft\u200b\ufeff", "soft"),
        ("и\u0306 е\u0308", "й ё"),  # composed
        ("что\u0301 знаю\u0301", "что знаю"),  # a stress mark
        ("cafe\u0301", "caf\u00e9"),
        ("a\u200db", "a\u200db"),  # joiners mean something
    ],
)
def test_clean_line(text, clean):
    assert clean_line(text) == clean


@pytest.mark.parametrize(
    ("language", "text", "tokens"),
    [
        ("en", "“Don’t,” he said…", '" Don \'t , " he said ...'),
        ("ru", "«Ну, что?» — спросил он.", '" Ну , что ? " - спросил он .'),
        ("ru", "Их 10\u00a0000, т. е. много; № 5", "Их 10 000 , т. е. много ; № 5"),
        ("en", "AT&T <b> [x] | it's", "AT & T < b > [ x ] | it 's"),
        ("en", " \u200b ", ""),
    ],
)
def test_tokens(language, text, tokens):
    assert LanguageText(language, TextSettings()).tokenize(text) == tokens


def test_entities_of_the_text_stay_where_none_were_written():
    assert LanguageText("en", TextSettings()).detokenize("a &lt; b") == "a &lt; b"


def test_entities_are_written_and_read_back():
    text = 'It\'s "A&amp;B" <b> [x] | y'
    plain, escaped = (
        LanguageText("en", TextSettings(escape=escape)).tokenize(text) for escape in (False, True)
    )
    assert "&quot;" not in plain and "&apos;s" not in plain
    assert "&quot;" in escaped and "&apos;s" in escaped and "&#124;" in escaped
    texts = {
        LanguageText("en", TextSettings(escape=escape)).detokenize(tokens)
        for escape, tokens in ((False, plain), (True, escaped))
    }
    assert texts == {'It\'s "A & amp; B" < b > [x] | y'}


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The president's \"plan\" (of 1998) wasn't bad, was it?"),
        ("ru", 'Он сказал: "Пойдём домой" и ушёл (в полночь), не так ли?'),
    ],
)
def test_text_survives(language, text, escape):
    tool = LanguageText(language, TextSettings(escape=escape))
    assert tool.detokenize(tool.tokenize(text)) == text


def test_no_tokenizer_and_no_normalisation():
    tool = LanguageText("zh", TextSettings(tokenizer="none", normalize=False))
    assert tool.tokenize(" “你 好”。 ") == "“你 好”。"
    assert tool.detokenize("“你 好”。") == "“你 好”。"


def test_each_side_has_its_language():
    text = ParallelText("ru", "en", TextSettings())
    assert text.encode("«Да», т. е. нет.") == '" Да " , т. е. нет .'
    assert text.decode('" Yes , it \'s , " he said .') == '"Yes, it\'s," he said.'


def test_settings_are_found_in_the_first_folder(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    assert find_settings(folders) is None
    write_settings(folders[2], TextSettings())
    write_settings(folders[1], TextSettings(escape=True))
    assert find_settings(folders) == TextSettings(escape=True)


def test_a_byte_level_tokenizer_holds_no_settings(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    assert find_settings([tmp_path]) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"x"',
        "{}",
        '{"tokenizer": "mosaic", "normalize": true, "escape": false}',
        '{"tokenizer": "moses", "normalize": "yes", "escape": false}',
        '{"tokenizer": "moses", "normalize": true, "escape": false, "more": 1}',
    ],
)
def test_settings_that_are_none(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="tokenizer.json: .*make it") as error:
        find_settings([tmp_path])
    assert "\n" not in str(error.value)


def test_settings_are_written_as_they_are_read(tmp_path):
    write_settings(tmp_path, TextSettings("none", False, True))
    found = json.loads((tmp_path / "tokenizer.json").read_text())
    assert found == {"tokenizer": "none", "normalize": False, "escape": True}


@pytest.mark.parametrize(
    "text", ["او می‌گوید که فردا به تهران می‌رویم.", "श्री‍मान क्‍या है", "👩‍👩‍👧 hi ❤️ 👍🏽"]
)
def test_joiners_stay_inside_their_words(text):
    moses = LanguageText("fa", TextSettings())
    tokens = moses.tokenize(text)
    assert [word for word in tokens.split() if word.strip(".")] == text.rstrip(".").split()
    assert moses.detokenize(tokens) == text


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (("en", "ru"), "moses"),
        (("en", "zh"), "none"),
        (("th_TH", "de"), "none"),
        (("ja-JP", "en"), "none"),
        (("en", "ko"), "moses"),
    ],
)
def test_moses_is_not_for_languages_without_spaces(languages, expected):
    assert default_tokenizer(languages) == expected

"""`fairtale bitext` on the real corpora: what is lost, and that nothing leaks."""

import json

import pytest

from fairtale.data.parallel.files import find_parallel
from fairtale.data.parallel.text import LanguageText, TextSettings, clean_line
from tests.cli.fairtale_command import assert_user_error, fairtale

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def translation(realdata):
    return realdata / "translation"


# What is kept and left out: of the first 6,000 pairs of each corpus, and of all.
QUICK = {
    "train": 10433,
    "literature.en-ru": {
        "pairs": 6000,
        "unequal lengths": 13,
        "also in valid or test": 1,
        "duplicate": 0,
    },
    "php_manual.en-ru": {
        "pairs": 6000,
        "unequal lengths": 26,
        "too long": 5,
        "also in valid or test": 0,
        "duplicate": 22,
    },
}
WHOLE = {
    "train": 81568,
    "literature.en-ru": {
        "pairs": 47017,
        "unequal lengths": 163,
        "too long": 41,
        "also in valid or test": 1,
        "duplicate": 3,
    },
    "php_manual.en-ru": {
        "pairs": 36503,
        "unequal lengths": 165,
        "too long": 11,
        "also in valid or test": 0,
        "duplicate": 68,
    },
}


@pytest.fixture(
    scope="module",
    params=[QUICK, pytest.param(WHOLE, marks=pytest.mark.slow)],
    ids=["quick", "whole"],
)
def prepared(request, translation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bitext")
    words = ["--valid-size", 1500, "--output", folder, "--quiet"]
    for corpus in ("literature", "php_manual"):
        words += ["--source", folder / f"{corpus}.en-ru"]
        for lang in ("en", "ru"):
            lines = lines_of(translation / "train" / f"{corpus}.en-ru.{lang}")
            lines = lines[: request.param[f"{corpus}.en-ru"]["pairs"]]
            (folder / f"{corpus}.en-ru.{lang}").write_text(
                "\n".join(lines) + "\n", encoding="utf-8"
            )
    for name in (
        translation / "sgm_reconstructed" / "newstest2015-enru",
        translation / "eval" / "flores_dev.en-ru",
    ):
        words += ["--test", name]
    done = fairtale("bitext", *words)
    assert done.returncode == 0, done.stderr
    return folder, request.param


def lines_of(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_what_is_left_out(prepared):
    folder, expected = prepared
    report = json.loads((folder / "report.json").read_text())
    counts = {name.split("/")[-1]: count for name, count in report["corpora"].items()}
    assert {"train": report["pairs"].pop("train"), **counts} == expected
    assert report["pairs"] == {"valid": 1500, "test": 2818, "test1": 997}


def test_nothing_of_the_held_out_sets_is_trained_on(prepared):
    folder, _ = prepared
    for lang in ("en", "ru"):
        train = {line.casefold() for line in lines_of(folder / f"train.{lang}")}
        assert not train & {line.casefold() for line in lines_of(folder / f"valid.{lang}")}
        for subset in ("test", "test1"):
            tokens = lines_of(folder / f"{subset}.{lang}")
            assert not [t for t in tokens if len(t.split()) > 3 and t.casefold() in train]


def test_test_sets_are_whole_and_as_they_were(prepared, translation):
    folder, _ = prepared
    for subset, name in (("test", "newstest2015"), ("test1", "flores_dev")):
        for lang in ("en", "ru"):
            published = lines_of(translation / "eval" / f"{name}.en-ru.{lang}")
            kept = lines_of(folder / "raw" / f"{subset}.{lang}")
            assert [clean_line(line) for line in kept] == [clean_line(line) for line in published]
            assert all(lines_of(folder / f"{subset}.{lang}"))


@pytest.mark.parametrize("lang", ["en", "ru"])
def test_detokenising_gives_the_text_back(translation, lang):
    """All but a few lines: Moses cannot tell which side of a quote or a slash had no space."""
    plain = LanguageText(lang, TextSettings(tokenizer="none"))
    moses = LanguageText(lang, TextSettings())
    lines = lines_of(translation / "eval" / f"newstest2015.en-ru.{lang}")
    texts = [plain.tokenize(line) for line in lines]
    back = [moses.detokenize(moses.tokenize(line)) for line in lines]
    assert ["".join(text.split()) for text in back] == ["".join(text.split()) for text in texts]
    assert sum(a == b for a, b in zip(texts, back)) > 0.95 * len(lines)


@pytest.mark.parametrize("missing", [37, 4321, 40000])
def test_the_place_of_a_missing_line_is_found(translation, tmp_path, missing):
    for lang in ("en", "ru"):
        lines = lines_of(translation / "train" / f"literature.en-ru.{lang}")
        del lines[missing : missing + (lang == "ru")]
        (tmp_path / f"x.{lang}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = fairtale("bitext", "--source", tmp_path / "x", "--output", tmp_path / "out")
    assert_user_error(done, "has 47017 lines", " 47016;")
    found = int(done.stderr.rsplit("at line ", 1)[1].split()[0])
    assert abs(found - 1 - missing) <= 3


def test_a_missing_segment_is_named(translation, tmp_path):
    folder = translation / "sgm_reconstructed"
    for name in ("newstest2015-enru-src.en.sgm", "newstest2015-enru-ref.ru.sgm"):
        text = (folder / name).read_text(encoding="utf-8")
        if "ref" in name:
            text = "".join(x for x in text.splitlines(True) if '<seg id="1234">' not in x)
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = find_parallel(str(tmp_path / "newstest2015-enru"), "en", "ru", "--test")
    with pytest.raises(ValueError, match="segment 1234 of document newstest2015-all is missing"):
        list(files.read())

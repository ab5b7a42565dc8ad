"""Finding the two sides of parallel text, and locating missing lines."""

import pytest

from fairtale.data.parallel.files import ParallelFiles, find_parallel, first_difference
from fairtale.data.parallel.sgm import read_sgm
from fairtale.errors import UserError

ENGLISH = [
    "One morning the old fisherman went down to the sea.",
    "He waited.",
    "In 1812 there were 3 boats and not one of them came home again.",
    "No.",
    "The wind had turned while he slept, and he could not see the shore any more.",
    "Yes, she said, and closed the door behind her.",
]
RUSSIAN = [
    "Однажды утром старый рыбак спустился к морю.",
    "Он ждал.",
    "В 1812 году было 3 лодки, и ни одна из них не вернулась домой.",
    "Нет.",
    "Ветер переменился, пока он спал, и берега больше не было видно.",
    "Да, сказала она и закрыла за собой дверь.",
]


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_prefix_names_two_files(tmp_path):
    write(tmp_path / "x.en", ENGLISH)
    write(tmp_path / "x.ru", RUSSIAN)
    files = find_parallel(str(tmp_path / "x"), "en", "ru", "--source")
    assert list(files.read()) == list(zip(ENGLISH, RUSSIAN))
    turned = find_parallel(str(tmp_path / "x"), "ru", "en", "--source")
    assert list(turned.read()) == list(zip(RUSSIAN, ENGLISH))


def test_two_files_and_sgml(tmp_path):
    a, b = write(tmp_path / "a", ["x"]), write(tmp_path / "b", ["y"])
    assert find_parallel(f"{a},{b}", "en", "ru", "--test") == ParallelFiles(a, b, ("en", "ru"))
    text = '<srcset><doc docid="d"><seg id="1">{}</seg></doc></srcset>'
    for name, word in (("n-src.en.sgm", "x"), ("n-ref.ru.sgm", "y")):
        write(tmp_path / name, [text.format(word)])
    files = find_parallel(str(tmp_path / "n"), "en", "ru", "--test")
    assert files.is_sgm and list(files.read()) == [("x", "y")]


def test_only_line_feeds_end_lines(tmp_path):
    write(tmp_path / "x.en", ["a\u2028b", "c\rd"])
    (tmp_path / "x.ru").write_bytes("э\r\nю".encode())  # no line feed at the end
    pairs = find_parallel(str(tmp_path / "x"), "en", "ru", "--source").read()
    assert list(pairs) == [("a\u2028b", "э"), ("c\rd", "ю")]


def test_the_remedy_for_bad_bytes_keeps_every_line(tmp_path):
    write(tmp_path / "x.en", ["a", "b"])
    (tmp_path / "x.ru").write_bytes("э\n".encode() + b"\xff\n")
    files = find_parallel(str(tmp_path / "x"), "en", "ru", "--source")
    with pytest.raises(UserError, match=r"x.ru:2: not UTF-8 .*; convert .*keep every line$"):
        list(files.read())
    (tmp_path / "n.sgm").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="n.sgm:1: not UTF-8 .*; convert the file to UTF-8$"):
        read_sgm(str(tmp_path / "n.sgm"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x", r"--source \S+x: no file \S+x.ru$"),
        ("y", r"no file \S+y.en and no file \S+y.ru \(nor \S+y-src.en.sgm and \S+y-ref.ru.sgm\)"),
        ("x.en,x.en,x.en", "a prefix, one file, or two files SOURCE,TARGET"),
        ("s-src.en.sgm,x.en", "no SGML of a WMT set in it"),
    ],
)
def test_what_is_missing_is_named(tmp_path, name, message):
    for file in ("x.en", "s-src.en.sgm"):
        write(tmp_path / file, ENGLISH)
    name = ",".join(str(tmp_path / part) for part in name.split(","))
    with pytest.raises(UserError, match=message):
        find_parallel(name, "en", "ru", "--source")


@pytest.mark.parametrize("place", [0, 4, 9, 14, 20, 29])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_the_lines_that_are_missing_are_found(place, side, count):
    sides = [ENGLISH * 5, RUSSIAN * 5]
    del sides[side][place : place + count]
    assert first_difference(*sides) == place


def test_different_lengths(tmp_path):
    write(tmp_path / "x.en", ENGLISH)
    write(tmp_path / "x.ru", RUSSIAN[:2] + RUSSIAN[3:])
    files = find_parallel(str(tmp_path / "x"), "en", "ru", "--source")
    message = (
        r"x.en has 6 lines and \S+x.ru 5; they seem to diverge at line 3 "
        r"\(x.en: 'In 1812 .*'; x.ru: 'Нет.'\)"
    )
    with pytest.raises(UserError, match=message):
        next(files.read())
    write(tmp_path / "x.ru", RUSSIAN[:5])
    with pytest.raises(UserError, match="line 6 .*x.en: 'Yes, she .*; x.ru: no line"):
        next(files.read())

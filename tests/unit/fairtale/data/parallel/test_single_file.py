"""Parallel text in one file, compressed files, and layouts that are refused."""

import gzip
import json

import pytest

from fairtale.data.parallel.files import FORMATS, NAMES, ParallelFiles, find_parallel
from fairtale.data.parallel.records import PairReport
from fairtale.errors import UserError
from tests.cli.fairtale_command import ROOT

ENGLISH = [f"Tomorrow we & {i} friends go home." for i in range(20)]
RUSSIAN = [f"Завтра мы & {i} друзей идём домой." for i in range(20)]
PAIRS = list(zip(ENGLISH, RUSSIAN))


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def read(path, *languages, fields=()):
    languages = languages or ("en", "ru")
    files = find_parallel(str(path), *languages, "--source", None, fields)
    return list(files.read(PairReport()))


def escaped(text):
    return text.replace("&", "&amp;")


def tmx(first="en-US", second="RU", inline=""):
    units = "".join(
        f'<tu><tuv xml:lang="{first}"><seg>{inline}{escaped(a)}</seg></tuv>\n'
        f'<tuv xml:lang="{second}"><seg>{escaped(b)}</seg></tuv></tu>\n'
        for a, b in PAIRS
    )
    return f'<?xml version="1.0"?>\n<tmx version="1.4"><body>{units}</body></tmx>'


def segments(lines):
    return "".join(f'<seg id="{i}">{escaped(line)}</seg>\n' for i, line in enumerate(lines))


def wmt(more=""):
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<dataset id="x"><doc origlang="en" id="d">\n'
        f'<src lang="en"><p>{segments(ENGLISH)}</p></src>\n'
        f'<ref lang="ru" translator="A"><p>{segments(RUSSIAN)}</p></ref>\n{more}</doc></dataset>'
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tmx", tmx()),
        ("a.tmx", '<!DOCTYPE tmx SYSTEM "tmx14.dtd">' + tmx().split("\n", 1)[1]),
        ("a.tmx", tmx("EN", "ru-RU", '<bpt i="1">&lt;b&gt;</bpt>')),
        ("a.xml", wmt()),
        ("a.xml", wmt('<ref lang="ru" translator="B"><p><seg id="0">другой</seg></p></ref>'
                      '<hyp system="s" lang="ru"><p><seg id="0">третий</seg></p></hyp>')),
        ("a.jsonl", "".join(json.dumps({"translation": {"ru": b, "en": a}}) + "\n"
                            for a, b in PAIRS)),
        ("a.json", json.dumps([{"en": a, "ru": b} for a, b in PAIRS])),
        ("a.csv", "\ufeffsource;target\n" + "".join(f'"{a}";"{b}"\n' for a, b in PAIRS)),
        ("a.tsv", "".join(f"{a}\t{b}\n" for a, b in PAIRS)),
        ("a.txt", "Go.\tИди.\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS)),
    ],
)  # fmt: skip
def test_one_file_with_both_languages(tmp_path, name, data):
    expected = [("Go.", "Иди.")] * ("Go." in data) + PAIRS
    assert read(write(tmp_path / name, data)) == expected
    packed = write(tmp_path / f"{name}.gz", gzip.compress(data.encode()))
    assert read(packed) == expected
    if not name.endswith((".tsv", ".txt", ".csv")):  # the languages are named inside
        assert read(packed, "ru", "en") == [(b, a) for a, b in expected]


def test_columns_are_named_where_there_are_more(tmp_path):
    path = write(
        tmp_path / "a.tsv", "".join(f"1.0{i}\t{a}\t{b}\n" for i, (a, b) in enumerate(PAIRS))
    )
    with pytest.raises(UserError, match="3 columns .*--fields, as 1,2"):
        read(path)
    assert read(path, fields=("2", "3")) == PAIRS
    with pytest.raises(UserError, match="--fields 2,4: give two numbers from 1 to 3"):
        read(path, fields=("2", "4"))
    path = write(tmp_path / "b.csv", "x,y\n" + "".join(f'"{a}","{b}"\n' for a, b in PAIRS))
    with pytest.raises(UserError, match="fields x, y: neither en and ru nor source and target"):
        read(path)
    assert read(path, fields=("x", "y")) == PAIRS


def test_compressed_files_and_sgml_under_plain_names(tmp_path):
    for lang, lines in (("en", ENGLISH), ("ru", RUSSIAN)):
        write(tmp_path / f"a.{lang}.gz", gzip.compress("\n".join(lines).encode()))
        sgm = f'<srcset setid="x"><doc docid="d">{segments(lines)}</doc></srcset>'
        write(tmp_path / f"b.{lang}", sgm)
    assert read(tmp_path / "a") == PAIRS and read(tmp_path / "b") == PAIRS


def test_sides_that_are_missing(tmp_path):
    one_sided = tmx().replace('xml:lang="RU"', 'xml:lang="de"', 1)
    assert read(write(tmp_path / "a.tmx", one_sided))[0] == (ENGLISH[0], "")
    with pytest.raises(UserError, match="no unit .* both en and fr; its languages are RU, en-US"):
        read(write(tmp_path / "a.tmx", tmx()), "en", "fr")
    lacking = wmt().replace('<seg id="7">Завтра', '<seg id="77">Завтра')
    with pytest.raises(UserError, match="document d has no segment 7 in ru"):
        read(write(tmp_path / "a.xml", lacking))


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (tmx(), "tmx is of one file with both languages"),
        (wmt(), "wmt is of one file with both languages"),
        ("\n".join(f"<seg>{a}</seg>" for a in ENGLISH), "begin with markup"),
        ('<?xml version="1.0"?>\n<xliff>\n<file>\n', "begin with markup"),
        ("\n".join(json.dumps({"en": a}) for a in ENGLISH), "look like JSON"),
        ("\n".join(f"{a}\t{a}" for a in ENGLISH), "half of its lines have tabs"),
        ("\n".join(a.replace("Tomorrow", "Tom@@ orrow") for a in ENGLISH), "cut into pieces"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("\n".join(ENGLISH).encode("utf-16-le"), "UTF-16 without a mark"),
    ],
)
def test_two_files_that_are_no_lines(tmp_path, data, seen):
    for lang in ("en", "ru"):
        write(tmp_path / f"a.{lang}", data)
    with pytest.raises(UserError, match=seen):
        read(tmp_path / "a")


def test_one_file_that_is_refused(tmp_path):
    with pytest.raises(UserError, match="a single file of lines without columns"):
        read(write(tmp_path / "a", "\n".join(ENGLISH)))
    with pytest.raises(UserError, match="a single file of lines without columns"):
        read(write(tmp_path / "a", "\n".join(f"{a} ||| {b}" for a, b in PAIRS).replace("|", "¦")))
    with pytest.raises(UserError, match="declares an entity"):
        bomb = '<!DOCTYPE tmx [<!ENTITY a "aa">]>'
        read(write(tmp_path / "a.tmx", bomb + tmx().split("\n", 1)[1]))


@pytest.mark.parametrize("one", FORMATS, ids=NAMES)
def test_the_examples_of_the_page_are_recognised(one, tmp_path):
    page = (ROOT / "docs" / "translation.md").read_text(encoding="utf-8").replace("<TAB>", "\t")
    assert f"| `{one.name}` |" in page and f"`{one.example}`" in page
    path = write(tmp_path / "a", one.example)
    second = path if one.name in ("lines", "sgm") else None
    assert ParallelFiles(path, second, ("en", "ru")).layout == one.name

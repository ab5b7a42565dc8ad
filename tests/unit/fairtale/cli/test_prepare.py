"""`fairtale prepare ...` in process: calls of the other verbs, settings, sources.

fairseq-preprocess is pretended here; the real one runs in tests/cli, through the scripts.
"""

import gzip
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from fairtale.cli import prepare, prepare_bitext, prepare_dialogs
from fairtale.cli.main import run_verb
from fairtale.data.corpus.whole_folder import describe_source
from fairtale.errors import UserError

# Says what the real command says, and notes its words.
PREPROCESS = """#!{python}
import os, sys
words = sys.argv[1:]
open("asked", "w").write(chr(10).join(words))
for option, paths in zip(words, words[1:]):
    if option.endswith("pref"):
        ends = ["." + words[words.index(o) + 1] for o in ("-s", "-t") if o in words] or [""]
        for path in (path + end for path in paths.split(",") for end in ends):
            lines = open(path).read().count(chr(10)) + LOST
            print(f"x | [None] {{path}}: {{lines}} sents, 99 tokens, 0.0% replaced (by <unk>)")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    write_preprocess(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in ("TINYSTORIES_URL", "OPENSUBTITLES_URL", "AMAZON_QA_URL", "WMT16_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_preprocess(folder, lost="0"):
    text = PREPROCESS.format(python=sys.executable).replace("LOST", lost)
    (folder / "bin" / "fairseq-preprocess").write_text(text)
    (folder / "bin" / "fairseq-preprocess").chmod(0o755)


def asked(folder):
    return (folder / "asked").read_text().split("\n")


def value(words, option):
    return words[words.index(option) + 1]


# -------------------------------------------------------------------------------- stories


def write_stories(path, count=200):
    lines = [f"Tom had {n} red apples. He ate {n * 7}." for n in range(count)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("verb", ["stories", "dialogs"])
def test_another_normalization_counts_the_bytes_before_it(folder, verb):
    texts = [f"Tom had {n} Ａpples. He ate ﬁve of {n * 7}." for n in range(200)]
    name = {"stories": "in.txt", "dialogs": "in.tsv"}[verb]
    lines = texts if verb == "stories" else [f"Who {n}?\t{text}" for n, text in enumerate(texts)]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["prepare", verb, "--source", name, "--vocab-size", "330", "--valid", "0.1"]
    words += ["--workers", "1", "--normalization", "nmt_nfkc"]
    run_verb([*words, "--data-bin", "db"])
    assert "normalization nmt_nfkc" in (folder / "db" / "prepare.txt").read_text().splitlines()
    counts = json.loads((folder / "db" / "original_bytes.json").read_text())
    for subset, extension in (("valid", Path(name).suffix), ("test", Path(name).suffix)):
        kept = folder / "db" / "text" / f"{subset}{extension}"
        before, after = counts[subset]
        assert before == kept.stat().st_size and after < before
    assert sum(before for before, _ in counts.values()) == (folder / name).stat().st_size
    with pytest.raises(UserError, match="--normalization nmt_nfkc: byte-level BPE"):
        run_verb([*words, "--data-bin", "other", "--bpe", "byte_level"])


def test_a_published_split(folder):
    for name, first in (("train.txt", 0), ("held.txt", 300)):
        lines = [f"Tom had {first + n} apples. He ate {n}." for n in range(100)]
        (folder / name).write_text("\n".join(lines) + "\n")
    words = ["--source", "train.txt", "--valid-source", "held.txt", "--data-bin", "db"]
    words += ["--vocab-size", "300", "--workers", "1", "--test", "0"]
    run_verb(["prepare", "stories", *words])
    assert (folder / "db" / "text" / "valid.txt").read_text() == (folder / "held.txt").read_text()
    assert f"valid-source {describe_source('held.txt')}" in (folder / "db/prepare.txt").read_text()
    with pytest.raises(UserError, match="--test-source no.txt: no such file"):
        run_verb(["prepare", "stories", *words[:-2], "--test-source", "no.txt"])


def test_stories(folder, capsys):
    write_stories(folder / "in.txt")
    words = ["--source", "in.txt", "--data-bin", "out/db", "--vocab-size", "300"]
    words += ["--valid", "0.10", "--dedupe", "--max-words", "50", "--workers", "1"]
    run_verb(["prepare", "stories", *words])
    data = folder / "out" / "db"
    assert (data / "prepare.txt").read_text().splitlines() == [
        "vocab-size 300",
        "normalization identity",
        "valid 0.10",  # as it was typed
        "test 0.10",
        "seed 1",
        "options --dedupe --max-words 50",
        f"source {describe_source('in.txt')}",
    ]
    assert sorted(os.listdir(data)) == [
        "prepare.txt",
        "sentencepiece.bpe.model",
        "sentencepiece.bpe.vocab",
        "text",
    ]
    assert sorted(os.listdir(data / "text")) == ["report.json", "test.txt", "valid.txt"]
    settings = json.loads((data / "text" / "report.json").read_text())["settings"]
    assert settings["dedupe"] and settings["max_words"] == 50 and settings["test"] == 0.1
    assert os.listdir(folder / "out") == ["db"]
    told = asked(folder)
    assert told[0] == "--only-source" and value(told, "--workers") == "1"
    assert value(told, "--trainpref").endswith("/pieces/train.txt")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("train.txt: ") and " sents, 99 tokens" in lines[-1]

    (folder / "asked").unlink()
    run_verb(["prepare", "stories", *words])
    assert not (folder / "asked").exists()  # it was ready
    with pytest.raises(UserError, match="out/db was made with other settings"):
        run_verb(["prepare", "stories", *words, "--seed", "2"])


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("-1", r"has not read all \d+ lines of test.txt"),
        ("sys.exit('disk full')", "failed; its last lines are shown above"),
    ],
)
def test_a_failing_preprocess(folder, caplog, lost, message):
    write_stories(folder / "in.txt")
    write_preprocess(folder, lost)
    words = ["--data-bin", "out/db", "--vocab-size", "300", "--valid", "0.1", "--workers", "1"]
    with pytest.raises(UserError, match=f"fairseq-preprocess {message}"):
        run_verb(["prepare", "stories", "--source", "in.txt", *words])
    assert os.listdir(folder / "out") == []
    assert ("disk full" in caplog.text) == ("failed" in message)


def test_options_that_are_passed_on_are_checked_by_the_verb_that_has_them(folder, capsys):
    write_stories(folder / "in.txt")
    with pytest.raises(SystemExit):
        run_verb(["prepare", "stories", "--source", "in.txt", "--format", "scroll"])
    assert "--format" in capsys.readouterr().err
    assert not list(folder.glob("data-bin/*"))
    with pytest.raises(UserError, match="--source nowhere: no such file or folder"):
        run_verb(["prepare", "stories", "--source", "nowhere"])


def test_stories_are_fetched(folder, monkeypatch):
    (folder / "site").mkdir()
    with tarfile.open(folder / "site" / "mine.tar.gz", "w:gz") as tar:
        (folder / "data00.json").write_text(json.dumps([{"story": f"One {n}."} for n in range(99)]))
        tar.add(folder / "data00.json", arcname="data00.json")
    monkeypatch.setenv("TINYSTORIES_URL", (folder / "site" / "mine.tar.gz").as_uri())
    words = ["--data-bin", "db", "--download-dir", "kept", "--vocab-size", "300", "--workers", "1"]
    run_verb(["prepare", "stories", *words, "--valid", "0.2"])
    assert os.listdir(folder / "kept") == ["mine.tar.gz"]
    assert json.loads((folder / "db" / "text" / "report.json").read_text())["kept"] == 99
    monkeypatch.setenv("TINYSTORIES_SHA256", "0" * 64)
    with pytest.raises(UserError, match="SHA-256 is not 000"):
        run_verb(["prepare", "stories", *words, "--download-dir", "other"])


# -------------------------------------------------------------------------------- dialogs


def write_dialogs(path, count=120):
    lines = [f"how old is number {n}\tit is {n * 7} years old" for n in range(count)]
    path.write_text("\n".join(lines) + "\n")


def test_dialogs(folder):
    write_dialogs(folder / "in.tsv")
    words = [
        "--corpus",
        "opensubtitles",
        "--source",
        "in.tsv",
        "--data-bin",
        "db",
        "--workers",
        "1",
    ]
    words += ["--vocab-size", "300", "--valid", "0.1", "--test", "0", "--max-chars", "90"]
    run_verb(["prepare", "dialogs", *words, "--keep-asides"])
    assert (folder / "db" / "prepare.txt").read_text().splitlines() == [
        "vocab-size 300",
        "normalization identity",
        "valid 0.1",
        "test 0",
        "seed 1",
        "max-unknown 3",
        "options --max-context-turns 3 --max-chars 90 --keep-asides",
        f"source {describe_source('in.tsv')}",
    ]
    assert sorted(os.listdir(folder / "db" / "text")) == ["report.json", "valid.tsv"]
    assert "--testpref" not in asked(folder) and "--validpref" in asked(folder)
    report = json.loads((folder / "db" / "text" / "report.json").read_text())
    assert report["settings"]["max_context_turns"] == 3 and report["settings"]["keep_asides"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "in.tsv", "--corpus", "opensubtitles", "--answers", "one"],
         "--answers: only allowed with --corpus amazon_qa"),
        (["--source", "in.tsv", "--lines", "5"],
         "--lines: only allowed with --corpus opensubtitles"),
        ([], "--source is missing: give your dialogs, or --corpus opensubtitles or amazon_qa"),
        (["--source", "nowhere"], "--source nowhere: no such file"),
        (["--corpus", "amazon_qa", "--categories", "Babies"],
         "--categories Babies: must be one of Appliances Arts_Crafts"),
        (["--corpus", "amazon_qa", "--categories", "Software", "--answers", "many"],
         "--categories 'Software' --answers many: there is no such file"),
    ],
)  # fmt: skip
def test_bad_options_of_dialogs(folder, words, message):
    write_dialogs(folder / "in.tsv")
    with pytest.raises(UserError, match=message):
        run_verb(["prepare", "dialogs", "--data-bin", "db", *words])
    assert not (folder / "db").exists()


def test_a_shop_without_a_file_of_many_answers(caplog):
    caplog.set_level("INFO")
    assert prepare_dialogs.amazon_files("both", ["Appliances", "Baby", "Software"]) == [
        "qa_Appliances.json.gz",
        "qa_Baby.json.gz",
        "qa_Software.json.gz",
        "icdm/QA_Baby.json.gz",
    ]
    assert "Appliances has no file with many answers" in caplog.text


def test_all_files():
    names = prepare_dialogs.amazon_files("both", [])
    assert len(names) == 21 + 17
    assert sum(name.startswith("icdm/QA_") for name in names) == 17
    assert "icdm/QA_Appliances.json.gz" not in names
    assert prepare_dialogs.amazon_files("one", [])[-1] == "qa_Video_Games.json.gz"
    assert prepare_dialogs.amazon_files("many", ["Baby"]) == ["icdm/QA_Baby.json.gz"]


def test_the_files_of_a_corpus_are_fetched(folder, monkeypatch):
    fetched = []

    def fetch(url, path, sha256=""):
        fetched.append(url)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt") as stream:
            stream.writelines(f"line {n}\n" for n in range(9))

    monkeypatch.setattr(prepare, "fetch", fetch)
    monkeypatch.setattr(
        prepare, "call", lambda *words: (_ for _ in ()).throw(UserError(str(words)))
    )
    monkeypatch.setenv("AMAZON_QA_URL", "http://site")
    words = ["prepare", "dialogs", "--data-bin", "db", "--corpus"]
    with pytest.raises(UserError, match="'dialogs', 'data-bin/download/amazon_qa/qa_Baby.json.gz'"):
        run_verb([*words, "amazon_qa", "--categories", "Baby", "--answers", "one"])
    with pytest.raises(UserError, match=r"'kept/de.4.txt'.*'--max-context-turns', '3'"):
        subtitles = ["opensubtitles", "--language", "de", "--lines", "4", "--download-dir", "kept"]
        run_verb([*words, *subtitles])
    assert (folder / "kept" / "de.4.txt").read_text() == "line 0\nline 1\nline 2\nline 3\n"
    monkeypatch.setenv("OPENSUBTITLES_URL", "http://copy/x.gz")
    with pytest.raises(UserError, match="'data-bin/download/opensubtitles/x.gz'"):
        run_verb([*words, "opensubtitles"])
    assert fetched == [
        "http://site/qa_Baby.json.gz",
        "https://object.pouta.csc.fi/OPUS-OpenSubtitles/v2018/mono/de.txt.gz",
        "http://copy/x.gz",
    ]
    assert not (folder / "db").exists()


# --------------------------------------------------------------------------------- bitext


def write_pairs(folder, name, count=90):
    for lang, word in (("en", "cat"), ("ru", "кот")):
        lines = [f"{word} {n} {word} {n * 7} {name}\n" for n in range(count)]
        (folder / f"{name}.{lang}").write_text("".join(lines), encoding="utf-8")


def test_bitext(folder):
    for name in ("a", "b", "news"):
        write_pairs(folder, name, 9 if name == "news" else 90)
    words = ["--source", "a", "--source", "b", "--test", "news", "--test", "news.en,news.ru"]
    words += ["--valid-size", "5", "--data-bin", "db", "--vocab-size", "320", "--workers", "1"]
    run_verb(["prepare", "bitext", *words, "--escape", "--seed", "3"])
    news = f"{describe_source('news.en')} {describe_source('news.ru')}"
    assert (folder / "db" / "prepare.txt").read_text().splitlines() == [
        "languages en ru",
        "vocab-size 320",
        "joint no",
        "type bpe",
        "valid-size 5",
        "options --escape --seed 3",
        f"source a {describe_source('a.en')} {describe_source('a.ru')}",
        f"source b {describe_source('b.en')} {describe_source('b.ru')}",
        f"test news {news}",
        f"test news.en,news.ru {news}",
    ]
    told = asked(folder)
    assert [Path(path).name for path in value(told, "--testpref").split(",")] == ["test", "test1"]
    assert value(told, "--srcdict").endswith("dict.en.txt")
    assert value(told, "--tgtdict").endswith("dict.ru.txt")
    kept = sorted(os.listdir(folder / "db" / "text"))
    assert kept == ["names.txt", "report.json", "test.en", "test.ru", "test1.en", "test1.ru",
                    "valid.en", "valid.ru"]  # fmt: skip
    assert (folder / "db" / "tokenizer.json").is_file()
    run_verb(["prepare", "bitext", *words, "--joint", "--data-bin", "joint"])
    assert "--joined-dictionary" in asked(folder) and "--tgtdict" not in asked(folder)
    assert (folder / "joint" / "sentencepiece.bpe.model").is_file()


def test_an_archive_without_the_files(folder, monkeypatch):
    (folder / "site").mkdir()
    (folder / "x.en").write_text("x\n")
    with tarfile.open(folder / "site" / "dev.tgz", "w:gz") as tar:
        tar.add(folder / "x.en", arcname="deep/x.en")
        tar.add(folder / "site", arcname="x.ru")  # a folder of that name
    (folder / "site" / "bad.tgz").write_bytes(gzip.compress(b"no archive at all" * 99))
    monkeypatch.setenv("WMT16_MIRROR", (folder / "site").as_uri())
    fetch = prepare_bitext.fetch_archive
    with pytest.raises(UserError, match="kept/dev.tgz holds no file x.ru; give --source"):
        fetch("http://there/dev.tgz", "kept", ["x.en", "x.ru"])
    assert (folder / "kept" / "x.en").read_text() == "x\n"
    fetch("http://there/dev.tgz", "kept", ["x.en"])
    with pytest.raises(UserError, match="kept/bad.tgz: damaged or incomplete archive"):
        fetch("http://there/bad.tgz", "kept", ["y.en"])
    with pytest.raises(UserError, match="-s en -t de: only English-Russian corpora"):
        run_verb(["prepare", "bitext", "-t", "de"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("stories --max-words 0", "--max-words: '0' is not a whole number of at least 1"),
        ("stories --format nothing", "--format: invalid choice: 'nothing'"),
        ("stories --valid 0.6", "--valid 0.6"),
        ("dialogs --max-chars x", "--max-chars"),
        ("bitext --max-ratio x", "--max-ratio"),
    ],
)
def test_numbers_are_checked_before_a_download(words, told, monkeypatch, capsys):
    def download(*_):
        raise AssertionError("the download has begun")

    monkeypatch.setattr(prepare, "fetch", download)
    with pytest.raises((SystemExit, UserError)) as caught:
        run_verb(["prepare", *words.split()])
    assert told in capsys.readouterr().err + str(caught.value)

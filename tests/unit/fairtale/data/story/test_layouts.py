"""Layouts of story files: what people have is read, what is not known is refused."""

import bz2
import csv
import io
import json
import random
import tarfile
import textwrap
import zipfile

import pytest

from fairtale.data.story.formats import detect_format, read_stories
from fairtale.data.story.layouts import FORMATS, NAMES, are_single_stories
from fairtale.data.story.records import StoryReport
from fairtale.errors import UserError
from tests.cli.fairtale_command import ROOT

DRAW = random.Random(1)
NOUNS, VERBS = "fox hen cat girl boy king owl".split(), "saw met found lost liked".split()


def sentence():
    return f"The {DRAW.choice(NOUNS)} {DRAW.choice(VERBS)} a {DRAW.choice(NOUNS)} in the wood."


STORIES = [f"Story {i} began. " + " ".join(sentence() for _ in range(5)) for i in range(40)]
# with a line break and a blank line inside, as published stories have
PRINTED = [story.replace(". ", ".\n\n", 1).replace(". The", ".\nThe", 1) for story in STORIES]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(*paths, **options):
    report = StoryReport()
    found = list(read_stories(list(map(str, paths)), report, **options))
    return [story.text for story in found], report


def as_table(delimiter=",", header=("id", "text")):
    stream = io.StringIO()
    rows = csv.writer(stream, delimiter=delimiter)
    rows.writerow(header)
    rows.writerows((i, story) for i, story in enumerate(PRINTED))
    return stream.getvalue()


def as_lines(field):
    return "".join(json.dumps({"title": "x", field: story}) + "\n" for story in PRINTED)


def as_zip():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("README.txt", "About these stories.")
        for i, story in enumerate(PRINTED):
            archive.writestr(f"stories_of_old/{i:02}.txt", story)
    return data.getvalue()


def as_tar():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for i, story in enumerate(PRINTED):
            info = tarfile.TarInfo(f"x/{i:02}.txt")
            info.size = len(story.encode())
            archive.addfile(info, io.BytesIO(story.encode()))
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", as_lines("text"), "json"),
        ("a.jsonl", as_lines("story"), "json"),
        ("a.txt", as_lines("content"), "json"),
        ("a.ndjson", as_lines("Text"), "json"),
        ("a.json", json.dumps([{"text": story} for story in PRINTED], indent=1), "json"),
        ("a.csv", as_table(), "csv"),
        ("a.csv", "\ufeff" + as_table(";"), "csv"),
        ("a.tsv", as_table("\t", ("title", "content")), "csv"),
        ("a.txt", as_table("|"), "csv"),
        ("a.csv", "text\n" + "".join(f'"{story}"\n' for story in PRINTED), "csv"),
        ("a.zip", as_zip(), "file"),
        ("a.tar.gz", as_tar(), "file"),
        ("a.txt.bz2", bz2.compress("\n<|endoftext|>\n".join(PRINTED).encode()), "eot"),
    ],
)
def test_what_people_have_is_read(tmp_path, name, data, expected):
    texts, report = read(write(tmp_path / name, data))
    assert texts == STORIES and not report.skipped
    assert set(report.files) - {"archive"} == {expected}


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": range(40), "text": PRINTED}), path)
    texts, report = read(path)
    assert texts == STORIES and list(report.files) == ["parquet"] and report.num_bytes > 7000
    write(path, path.read_bytes()[:-20])
    with pytest.raises(UserError, match="a.parquet: damaged parquet"):
        read(path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'fairtale\[parquet\]'"):
        read(write(tmp_path / "a.parquet", b"PAR1" + bytes(99)))


def test_a_folder_with_one_story_a_file(tmp_path):
    for i, story in enumerate(PRINTED[:9]):
        write(tmp_path / f"tales/{i}.txt", story)
    write(tmp_path / "tales/LICENSE.txt", "MIT\n")
    texts, report = read(tmp_path)
    assert texts == STORIES[:9] and list(report.files) == ["file"]
    assert "small .txt files of a folder" in next(report.lines())
    assert [path.rsplit("/", 1)[1] for path in report.ignored_files] == ["LICENSE.txt"]
    # but each line is a story if one says so, or if the names are those of subsets
    assert len(read(tmp_path, story_format="lines")[0]) > 9
    assert not are_single_stories([(f"train{i}.txt", 9) for i in range(9)])
    assert not are_single_stories([(f"{i}.txt", 1 << 20) for i in range(9)])


def test_a_field_of_another_name(tmp_path):
    path = write(tmp_path / "a.jsonl", as_lines("body"))
    with pytest.raises(UserError, match="JSON lines with the fields title, body: .*--text-field"):
        read(path)
    assert read(path, field="body")[0] == STORIES
    with pytest.raises(UserError, match="--text-field tale is not among them"):
        read(path, field="tale")


def test_the_first_separator_may_come_late(tmp_path):
    long = "\n".join(f"{i} {sentence()}" for i in range(40_000))
    texts, report = read(write(tmp_path / "a.txt", long + "\n<|endoftext|>\n" + PRINTED[0]))
    assert len(long) > 1 << 20
    assert texts == STORIES[:1] and report.skipped == {"too long": 1}
    assert report.lost_share > 0.9 and report.lost_lines["too long"] > 40_000


def test_a_late_separator_in_an_archive_is_refused(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        text = "\n".join(f"Line {i}. {sentence()}" for i in range(40_000))
        archive.writestr("a.txt", text + "\n<|endoftext|>\n")
    with pytest.raises(UserError, match=r"a.zip:a.txt:40001: <\|endoftext\|> .*--format eot"):
        read(write(tmp_path / "a.zip", data.getvalue()))


WRAPPED = "\n\n".join(textwrap.fill(" ".join(sentence() for _ in range(9)), 72) for _ in range(9))


@pytest.mark.parametrize(
    ("name", "data", "seen"),
    [
        ("a.txt", WRAPPED, "wrapped at a fixed width"),
        ("a.txt", "\n".join(f"{s}\n{s}\n" for s in STORIES), "blocks of several lines"),
        ("a.txt", "\n\n".join(STORIES), "paragraphs have blank lines"),
        ("a.txt", "\n".join(sentence() for _ in range(50)), "lines are a single sentence"),
        ("a.txt", "\n".join(NOUNS * 5), "fewer than four words"),
        ("a.txt", "\n".join(f"{i}\t{s}" for i, s in enumerate(STORIES)), "number or an id"),
        ("a.txt", "\n".join(f"A-{i:04} {s}" for i, s in enumerate(STORIES)), "number or an id"),
        ("a.txt", "\n".join(f"{s} ||| {s}" for s in STORIES), "have '|||' inside"),
        ("a.txt", "\n".join(f"<p>{s}</p>" for s in STORIES), "begin with markup"),
        ("a.txt", "\n".join(s.replace(". ", ". <nl> ") for s in STORIES), "have the mark <nl>"),
        ("a.txt", "\n".join(s.replace("the", "th@@ e") for s in STORIES), "pieces of words"),
        ("a.txt", "\n".join(f"Tom: {s}\nAnn: {s}" for s in STORIES), "begin with a label"),
        ("a.txt", "\n".join(f"= Head {i} =\n{s}" for i, s in enumerate(STORIES)), "of a wiki"),
        ("a.txt", "id,text\n" + "\n".join(STORIES), "names of columns"),
        ("a.csv", "\n".join(STORIES), "no records with named fields"),
        ("a.jsonl", "\n".join(STORIES), "no records with named fields"),
        ("a.jsonl", "[1]\n[2]\n", "no records with named fields"),
        ("a.json", '{"data": [{"text": "x"}]}', "JSON lines with the fields data"),
        ("a.txt", "\n".join(STORIES).encode("utf-16-le"), "UTF-16 without a mark"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, name, data, seen):
    with pytest.raises(UserError, match=f"{name}: .*") as error:
        read(write(tmp_path / name, data))
    assert seen in str(error.value)
    if "first line" in str(error.value):
        assert ", ".join(NAMES) in str(error.value) and "docs/stories.md" in str(error.value)


def test_other_formats_by_hand(tmp_path):
    path = write(tmp_path / "a.txt", "One.\nTwo.\n\n\nThree.\n")
    assert read(path, story_format="blank")[0] == ["One. Two.", "Three."]
    assert read(path, story_format="file")[0] == ["One. Two. Three."]
    assert read(path, story_format="book")[0] == ["One. Two. Three."]
    texts, report = read(write(tmp_path / "b.txt", b"One.\n\xff\n\nTwo."), story_format="blank")
    assert texts == ["Two."] and report.skipped == {"invalid UTF-8": 1}
    texts, report = read(write(tmp_path / "b.txt", b"One.\n\xff\n\nTwo."), story_format="file")
    assert texts == [] and report.places["invalid UTF-8"][0].endswith("b.txt:2 (byte 0xff)")


def test_chinese_books_are_cut_at_sentences(tmp_path):
    paragraph = "从前有一只狐狸住在山里。它很聪明，也很善良。" * 20
    texts, _ = read(write(tmp_path / "a.md", f"# 书\n\n{paragraph}\n"))
    assert "".join(texts).replace(" ", "") == paragraph
    assert len(texts) > 1 and all(text.endswith("。") for text in texts)


def test_markup_is_kept_and_counted_or_cleaned(tmp_path):
    path = write(tmp_path / "a.txt", "Tom &amp; <i>Ann</i> went.\nThey met.\n")
    texts, report = read(path)
    assert texts[0] == "Tom &amp; <i>Ann</i> went."
    assert any("--markup clean" in line for line in report.lines())
    texts, report = read(path, clean_markup=True)
    assert texts[0] == "Tom & Ann went."
    assert report.amounts["tags and entities removed"] == 1


@pytest.mark.parametrize("one", FORMATS, ids=NAMES)
def test_the_examples_of_the_page_are_recognised(one, tmp_path):
    page = (ROOT / "docs" / "stories.md").read_text(encoding="utf-8")
    assert f"`{one.name}`" in page
    if one.name == "parquet":
        return
    page = page.replace("\\|", "|")
    assert all(line.strip() in page for line in one.example.split("\n"))
    if one.name not in ("file", "book", "blank"):  # these need a folder, a name or the option
        name = "a.csv" if one.name == "csv" else "a.txt"
        assert detect_format(str(write(tmp_path / name, one.example)))[0] == one.name

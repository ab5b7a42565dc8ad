"""Story files of every format, good and bad, become the same clean lines."""

import gzip
import io
import json
import os
import tarfile

import pytest

from fairtale.data.story.formats import StoryLimits, detect_format, find_stories, read_stories
from fairtale.data.story.records import StoryReport
from fairtale.errors import UserError

STORIES = [
    "Lily had a ball.\nIt was red.\n\nThe end.",
    'Tom said, "</s> and <unk> are only letters."',
    "Ben saw â€œa birdâ€ and 😀 laughed.",
]
CLEAN = [" ".join(story.split()) for story in STORIES]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def shard(stories):
    return json.dumps([{"story": story, "source": "GPT-4"} for story in stories])


def archive(members):
    """A .tar.gz as bytes, of ``{name: bytes}``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def read(*sources, strict=False, **options):
    report = StoryReport(strict=strict)
    stories = list(read_stories([str(source) for source in sources], report, **options))
    return [story.text for story in stories], report


def test_every_format_gives_the_same_lines(tmp_path):
    eot = "\n<|endoftext|>\n".join(STORIES)
    files = {
        "a.json": shard(STORIES),
        "escaped.json": json.dumps([{"story": s} for s in STORIES], indent=2, ensure_ascii=True),
        "b.txt": eot,
        "ends.txt": eot + "\n<|endoftext|>\n",
        "crlf.txt": eot.replace("\n", "\r\n"),
        "glued.txt": "<|endoftext|>".join(STORIES),
        "c.txt": "\n".join(CLEAN),
        "d.tar.gz": archive({"x/data00.json": shard(STORIES).encode()}),
        "bom.txt": b"\xef\xbb\xbf" + "\n".join(CLEAN).encode(),
        "bom.json": b"\xef\xbb\xbf" + shard(STORIES).encode(),
    }
    for name, data in files.items():
        texts, report = read(write(tmp_path / name, data))
        assert texts == CLEAN, name
        assert report.num_kept == 3 and not report.skipped, name
        # A byte order mark is not counted as a control character.
        assert not report.mended["control characters removed"], name


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("x.json", "", "json"),
        ("x.md", "# Title", "book"),
        ("x.tar.gz", "", "archive"),
        ("x.TGZ", "", "archive"),
        ("x.txt", ' \n[\n {"story": 1}]', "json"),
        ("x.txt", "[not json", "lines"),
        ("x.txt", "a\n<|endoftext|>\nb", "eot"),
        ("noextension", "a\nb", "lines"),
    ],
)
def test_format_is_recognised(tmp_path, name, data, expected):
    assert detect_format(write(tmp_path / name, data))[0] == expected


def test_a_format_asked_for_wins_and_the_report_names_it(tmp_path):
    path = write(tmp_path / "x.txt", "One.\n<|endoftext|>\nTwo.")
    texts, report = read(path, story_format="lines")
    assert texts == ["One.", "<|endoftext|>", "Two."]
    assert list(report.lines())[0] == f"read as lines (--format): {path}"
    assert "content holds <|endoftext|>" in next(read(path)[1].lines())


@pytest.mark.parametrize("data", ["héllo".encode("utf-16"), gzip.compress(gzip.compress(b"hello"))])
def test_other_encodings_and_packed_text_are_refused(tmp_path, data):
    with pytest.raises(UserError, match="x.txt: (UTF-16|gzip data inside)"):
        read(write(tmp_path / "x.txt", data))


def test_empty_stories_are_counted(tmp_path):
    texts, report = read(write(tmp_path / "a.txt", "\nOne.\n \n\t\nTwo.\n\n"))
    assert texts == ["One.", "Two."]
    assert report.skipped == {"empty": 4}
    assert report.places["empty"][0].endswith("a.txt:1")
    texts, report = read(
        write(tmp_path / "b.txt", "One.\n<|endoftext|>\n\n<|endoftext|>\nTwo.\n<|endoftext|>\n\n")
    )
    assert texts == ["One.", "Two."] and report.skipped == {"empty": 1}
    texts, report = read(write(tmp_path / "c.json", shard(["One.", " \n ", "Two."])))
    assert texts == ["One.", "Two."] and report.skipped == {"empty": 1}


def test_a_word_of_ten_megabytes_is_skipped_and_named(tmp_path):
    word = "x" * (10 << 20)
    files = {
        "a.txt": f"One.\n{word}\nTwo.\n",
        "b.txt": f"One.\n<|endoftext|>\n{word}\n<|endoftext|>\nTwo.",
        "c.json": shard(["One.", word, "Two."]),
        "d.md": f"One.\n\n# H\n\n{word}\n\n# I\n\nTwo.",
        "e.tar.gz": archive({"data.json": shard(["One.", word, "Two."]).encode()}),
    }
    lines = {"a.txt": 2, "b.txt": 2, "c.json": 1, "d.md": 5, "e.tar.gz": 1}
    for name, data in files.items():
        texts, report = read(write(tmp_path / name, data))
        assert texts == ["One.", "Two."], name
        assert report.skipped == {"too long": 1}, name
        assert f":{lines[name]}" in report.places["too long"][0], name
    # The last line of a file, without its end.
    texts, report = read(write(tmp_path / "f.txt", f"One.\n{word}"))
    assert texts == ["One."] and report.skipped == {"too long": 1}


def test_the_limit_counts_characters(tmp_path):
    path = write(tmp_path / "a.txt", "ééé\néééé\n")
    texts, report = read(path, limits=StoryLimits(max_chars=3))
    assert texts == ["ééé"] and report.skipped == {"too long": 1}


def test_control_characters_are_removed_and_counted(tmp_path):
    dirty = "A\x00 ta\x07le\x7f\x9d\ufeff of\t\x0btwo\u2028cities\ud83d."
    texts, report = read(write(tmp_path / "a.json", json.dumps([{"story": dirty}])))
    assert texts == ["A tale of two cities."]
    assert texts[0].encode()
    assert report.amounts["control characters removed"] == 6
    assert report.mended["control characters removed"] == 1
    assert "a.json:1" in report.places["control characters removed"][0]


def test_invalid_utf8_is_skipped_counted_and_named(tmp_path):
    bad = b"caf\xe9 "
    cases = {
        "a.txt": (b"One.\n" + bad + b"\nTwo.\n", 2),
        "b.txt": (b"One.\n<|endoftext|>\nfine\n" + bad + b"\n<|endoftext|>\nTwo.\n", 4),
        "c.json": (b'[{"story": "One."},\n{"story": "' + bad + b'"},\n{"story": "Two."}]', 2),
        "d.md": (b"One.\n\n# H\n\nfine\n" + bad + b"\n\n# I\n\nTwo.", 6),
    }
    for name, (data, line) in cases.items():
        path = write(tmp_path / name, data)
        texts, report = read(path)
        assert texts == ["One.", "Two."], name
        assert report.skipped == {"invalid UTF-8": 1}, name
        assert f"{name}:{line}" in report.places["invalid UTF-8"][0], name
        assert any("invalid UTF-8: 1 (first: " in text for text in report.lines()), name
        with pytest.raises(UserError, match=f"{name}:{line} .*invalid UTF-8"):
            read(path, strict=True)


def test_strict_still_allows_empty_lines_and_duplicates(tmp_path):
    path = write(tmp_path / "a.txt", "One.\n\nOne.\n")
    texts, report = read(path, strict=True, dedupe=True)
    assert texts == ["One."] and report.skipped == {"empty": 1, "duplicate": 1}


def test_duplicates_stay_unless_asked_otherwise(tmp_path):
    first = write(tmp_path / "a.txt", "One.\nTwo.\nOne.")
    second = write(tmp_path / "b.json", shard(["Two.", "Three."]))
    assert read(first, second)[0] == ["One.", "Two.", "One.", "Two.", "Three."]
    texts, report = read(first, second, dedupe=True)
    assert texts == ["One.", "Two.", "Three."]
    assert report.num_kept == 3 and report.skipped == {"duplicate": 2}


def test_archives(tmp_path):
    members = {
        "data00.json": shard(["One."]).encode(),
        "._data00.json": b"resource fork",
        "README.txt": b"hello",
        "data01.json": shard(["Two."]).encode(),
    }
    path = write(tmp_path / "all.tar.gz", archive(members))
    texts, report = read(path)
    assert texts == ["One.", "Two."]
    assert report.ignored_files == [f"{path}:README.txt"]
    cut = archive({"data00.json": shard([os.urandom(3000).hex()] * 3).encode()})
    for end in (2, 20, len(cut) // 2, len(cut) - 9, len(cut) - 1):
        with pytest.raises(UserError, match="all.tar.gz.*(damaged|truncated)"):
            read(write(tmp_path / "all.tar.gz", cut[:end]))
    broken = bytearray(cut)
    broken[-6] ^= 1  # the checksum
    with pytest.raises(UserError, match="damaged"):
        read(write(tmp_path / "all.tar.gz", bytes(broken)))


# -------------------------------------------------------------------------------- files


def test_files_of_a_folder_in_order(tmp_path):
    for name in ("b.txt", "a.txt", ".hidden.txt", "x.log", "sub/c.json", ".git/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    report = StoryReport()
    found = find_stories([str(tmp_path), str(tmp_path / "a.txt")], report)
    assert [os.path.relpath(path, tmp_path) for path in found] == ["a.txt", "b.txt", "sub/c.json"]
    assert [os.path.basename(path) for path in report.ignored_files] == ["x.log"]
    assert find_stories([str(tmp_path / "x.log")], report) == [str(tmp_path / "x.log")]


def test_missing_and_empty_sources(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no .json, .jsonl,.* .txt"):
        read(tmp_path)


def test_progress_counts_every_byte(tmp_path):
    path = write(tmp_path / "a.tar.gz", archive({"d.json": shard(STORIES * 500).encode()}))
    seen = []
    texts, _ = read(path, on_bytes=seen.append)
    assert len(texts) == 1500
    assert sum(seen) == os.path.getsize(path)

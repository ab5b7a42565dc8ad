"""`fairtale stories`: sources in, three files and a report out, whole or not at all."""

import json

import pytest

from tests.cli.fairtale_command import assert_user_error, fairtale


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def stories(count):
    return [f"Story number {number} begins. It ends well." for number in range(count)]


def test_files_report_and_counts(tmp_path):
    (tmp_path / "a.txt").write_bytes("\n".join(stories(300)).encode() + b"\n\nb\xff\n")
    (tmp_path / "b.json").write_text(json.dumps([{"story": "Two\nlines."}, {"story": "\x00\n"}]))
    done = fairtale(
        "stories", "a.txt", "b.json", "--output", "out", "--valid", "0.1", "--test", "0.2",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    subsets = {name: lines(out / f"{name}.txt") for name in ("train", "valid", "test")}
    assert sorted(sum(subsets.values(), [])) == sorted([*stories(300), "Two lines."])
    # The order of the sources is kept.
    order = [int(text.split()[2]) for text in subsets["train"] if text.startswith("Story")]
    assert order == sorted(order)
    assert 10 < len(subsets["valid"]) < 50 and 30 < len(subsets["test"]) < 90
    assert "stories kept: 301" in done.stdout
    assert "skipped, invalid UTF-8: 1 (first: a.txt:302 (byte 0xff))" in done.stdout
    assert "skipped, empty: 2" in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["kept"] == 301
    assert report["subsets"] == {name: len(texts) for name, texts in subsets.items()}
    assert report["skipped"] == {"invalid UTF-8": 1, "empty": 2}
    assert report["settings"]["seed"] == 1


def test_the_same_run_gives_the_same_bytes_and_another_seed_another_split(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(stories(200)))

    def run(name, *options):
        done = fairtale("stories", "a.txt", "--output", name, "--valid", "0.2", *options,
                        cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return (tmp_path / name / "valid.txt").read_bytes()

    first = run("one", "--test", "0.1")
    assert run("two", "--test", "0.1") == first
    assert run("three", "--test", "0.1", "--seed", "2") != first


def test_a_share_of_zero_writes_no_file_and_removes_an_old_one(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(stories(50)))
    for test, expected in (("0.2", True), ("0", False)):
        done = fairtale("stories", "a.txt", "--output", "out", "--valid", "0.2", "--test", test,
                        cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / "test.txt").exists() == expected


def test_an_error_leaves_the_old_result_as_it_was(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(stories(300)))
    (tmp_path / "z.json").write_text('[{"story": "Cut off')
    shares = ("--valid", "0.1", "--test", "0.1")
    assert fairtale("stories", "a.txt", "--output", "out", *shares, cwd=tmp_path).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    done = fairtale("stories", ".", "--output", "out", *shares, cwd=tmp_path)
    assert_user_error(done, "z.json", "truncated", "line 1, character")
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after == before and len(before) == 4


@pytest.mark.parametrize(
    ("data", "options", "parts"),
    [
        (b"", [], ["no story found", "the files are empty"]),
        (b"\n\n \n", [], ["no story found", "empty: 3"]),
        (b"\xff\xfe\xfa\n", [], ["UTF-16"]),
        (b"b\xfa\n", [], ["no story found", "invalid UTF-8: 1"]),
        (b"One.\nb\xfa\n", ["--strict"], ["a.txt:2", "invalid UTF-8", "--strict"]),
        (b"One.\nTwo.\n", [], ["--valid 0.005 of 2 stories came to 0 valid stories"]),
        (b"One.\nTwo.\n", ["--valid", "0.5", "--test", "0.5"], ["sum is below 1"]),
    ],
)
def test_bad_input(tmp_path, data, options, parts):
    (tmp_path / "a.txt").write_bytes(data)
    done = fairtale("stories", "a.txt", "--output", "out", *options, cwd=tmp_path)
    assert_user_error(done, *parts)
    assert not list(tmp_path.glob("out/*"))


def test_bad_options(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    for options in (["--valid", "1.5"], ["--max-words", "0"], ["--format", "pdf"]):
        done = fairtale("stories", "a.txt", "--output", "out", *options, cwd=tmp_path)
        assert done.returncode == 2 and options[0] in done.stderr

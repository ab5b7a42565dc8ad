"""The story readers on real corpora: what is in them, and what the commands make of it."""

import gzip
import io
import json
import tarfile

import pytest

from fairtale.data.story.formats import read_stories
from fairtale.data.story.records import StoryReport
from tests.cli.fairtale_command import fairtale

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def stories(realdata):
    return realdata / "stories"


def read(*sources, **options):
    report = StoryReport()
    found = list(read_stories([str(source) for source in sources], report, **options))
    return found, report


def test_shards_hold_the_same_stories_as_the_text(stories, tmp_path):
    text, report = read(stories / "tinystories" / "tinystories_train_sample.txt")
    assert len(text) == 1120 and not report.skipped
    shards, report = read(stories / "tinystories" / "TinyStories_all_data")
    assert [story.text for story in shards] == [story.text for story in text]
    assert report.mended == {"line breaks replaced by a space": 1076}
    # And packed as they are published.
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as plain, tarfile.open(fileobj=plain, mode="w|") as archive:
        for path in sorted((stories / "tinystories" / "TinyStories_all_data").glob("*.json")):
            archive.add(path, arcname=f"./{path.name}")
    (tmp_path / "TinyStories_all_data.tar.gz").write_bytes(packed.getvalue())
    assert [story.text for story in read(tmp_path)[0]] == [story.text for story in text]


def test_a_genuine_record_with_every_field(stories):
    found, report = read(stories / "tinystories" / "real_shard_records.json")
    assert report.num_kept == 1 and not report.skipped
    assert found[0].text.startswith("Lily and Ben are friends. They like to play in the park.")
    assert found[0].text.endswith("She wants to be friends again.")


def test_lower_case_tail_and_picture_books(stories):
    found, report = read(stories / "tinystories" / "tinystories_train_lowercase_tail.txt")
    assert len(found) == 891 and not report.skipped
    found, report = read(stories / "african_storybook" / "stories.txt")
    assert len(found) == 153 and not report.skipped
    assert found[0].text.startswith("A very tall man His hoe was too short.")


def test_books_are_cut_without_losing_a_word(stories):
    found, report = read(stories / "books")
    assert not report.skipped and len(report.files["book"]) == 34
    assert max(len(story.text.split()) for story in found) <= 160
    lines = []
    for path in sorted((stories / "books").glob("*.md")):
        for line in path.read_text(encoding="utf-8").splitlines():
            line = line.strip().removeprefix(">").strip()
            if line and not line.startswith("#") and line.strip("-*_= "):
                lines.append(line)
    words = "".join("".join(lines).split())
    kept = "".join("".join(story.text for story in found).split())
    mended = report.amounts.get("control characters removed", 0)
    assert abs(len(words) - len(kept)) <= mended
    # Sentences stay whole: nearly every piece ends where one does.
    ends = sum(
        story.text.endswith((".", "!", "?", '"', "'", "”", "’", ")", "_")) for story in found
    )
    assert ends > 0.95 * len(found)


def test_text_survives_encoding(stories, tmp_path):
    sample = stories / "tinystories" / "tinystories_train_sample.txt"
    done = fairtale("stories", sample, "--output", "text", "--valid", "0.05", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    train = tmp_path / "text" / "train.txt"
    report = json.loads((tmp_path / "text" / "report.json").read_text())
    assert sum(report["subsets"].values()) == 1120
    for words in (
        ("spm", "train", train, "--model", "m", "--normalization", "identity"),
        ("spm", "encode", train, "--model", "m.model", "--output", "pieces"),
        ("spm", "encode", "pieces", "--model", "m.model", "--decode", "--output", "back"),
    ):
        done = fairtale(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == train.read_bytes()
    assert "<unk>" not in (tmp_path / "pieces").read_text(encoding="utf-8")

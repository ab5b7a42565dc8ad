"""JSON lists of records, such as TinyStories shards: intact, truncated and malformed."""

import json
import random

import pytest

from fairtale.data.corpus import json_values
from fairtale.errors import UserError
from tests.unit.fairtale.data.story.test_formats import read, shard, write


def test_a_raw_control_character_in_a_shard_is_cleaned_too(tmp_path):
    texts, report = read(write(tmp_path / "a.json", '[{"story": "One\x01 line\nand two."}]'))
    assert texts == ["One line and two."]
    assert report.amounts == {"control characters removed": 1, "line breaks replaced by a space": 1}


def test_a_shard_cut_anywhere_is_an_error_that_names_it(tmp_path):
    whole = json.dumps(
        [{"story": "A \u201cq\u201d \\ é.\n", "n": [1, True, None]}, {"story": "B."}],
        ensure_ascii=True,
    )
    for end in range(len(whole)):
        path = write(tmp_path / "cut.json", whole[:end])
        with pytest.raises(UserError, match=r"cut\.json: .*character"):
            read(path)
    assert read(write(tmp_path / "cut.json", whole))[0] == ["A “q” \\ é.", "B."]


def test_a_truncated_shard_says_how_far_it_went(tmp_path):
    data = shard(["One.", "Two.", "Three."])
    path = write(tmp_path / "cut.json", data[: data.index("Three")])
    with pytest.raises(UserError, match="truncated.* line 1, character .* after 2 whole records"):
        read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('"A."', "not a JSON list: line 1, character 0"),
        ('[{"story": "A."} {"story": "B."}]', "character 17: ',' or ']' should follow"),
        ('[{"story": "A."}]\n\n[]', "line 3, character 19: text after the end"),
        ('[\n{"story": A}, {"story": "' + "B" * 200 + '"}]', "line 2, character 12: not JSON"),
        ('[{"story": "A."}, ]', "not JSON"),
        ("[" * 100_000, "nested too deeply|truncated"),
    ],
)
def test_malformed_shards(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "x.json", data))


def test_records_without_a_story_are_counted(tmp_path):
    data = '[{"story": "A."}, {"text": "B."}, "C.", {"story": null}, 7, {"story": "D."}]'
    texts, report = read(write(tmp_path / "x.json", data))
    assert texts == ["A.", "D."]
    assert report.skipped == {"no story field": 2, "not a JSON object": 2}
    assert report.places["no story field"][0].endswith("x.json:1 (record 2)")


@pytest.mark.parametrize("block", [1, 3, 64, 1000])
def test_a_shard_read_in_blocks_equals_json_load(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_values, "_BLOCK_CHARS", block)
    draw = random.Random(block)
    letters = 'ab \\"é😀{}[],:\u2028'
    stories = ["x" + "".join(draw.choices(letters, k=draw.randint(0, 90))) for _ in range(40)]
    records = [{"words": ["a", 1.5e3, False], "story": story} for story in stories]
    path = write(tmp_path / "x.json", json.dumps(records, ensure_ascii=False, indent=1))
    assert read(path)[0] == [" ".join(story.split()) for story in stories]

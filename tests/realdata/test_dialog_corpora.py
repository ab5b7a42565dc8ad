"""Real dialog corpora: what is in them, what is left out, and why."""

import json
from collections import Counter

import pytest

from fairtale.data.corpus.split import Splitter
from fairtale.data.dialog.cleaning import Cleaning
from fairtale.data.dialog.formats import find_sources, read_dialogs
from fairtale.data.dialog.records import DialogReport

pytestmark = pytest.mark.realdata


def read(folder, **options):
    report = DialogReport(strict=True)  # none of these files is damaged
    return list(read_dialogs([str(folder)], report, **options)), report


def test_self_dialogue(realdata):
    dialogs, report = read(realdata / "dialog" / "self_dialogue")
    assert list(report.files) == ["conversations"]
    path = realdata / "dialog" / "self_dialogue" / "conversations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    turns = sum(len(json.loads(line)["turns"]) for line in lines)
    # every turn but the first of its conversation is a response
    dropped = report.amounts["turns without words dropped"]
    assert len(dialogs) + sum(report.skipped.values()) == turns - len(lines) - dropped
    assert len(dialogs) > 186_000
    assert set(report.skipped) == {
        "response equals query",
        "response of more than 512 characters",
        "query of more than 512 characters",
    }
    for dialog in dialogs:
        assert 2 <= len(dialog.turns) <= 12
        assert all(turn.strip() == turn != "" for turn in dialog.turns)
        assert not any(c in turn for turn in dialog.turns for c in "\t\n\r\u2028")

    splitter = Splitter(1, 0.05, 0.05)
    subsets = {}
    for dialog in dialogs:
        subsets.setdefault(splitter.subset(dialog), set()).add(dialog.group)
    assert len(set.union(*subsets.values())) == sum(map(len, subsets.values()))  # no group twice
    for name in ("valid", "test"):
        assert 0.04 < len(subsets[name]) / len(lines) < 0.06


def test_polyai_json_and_tfrecord_hold_the_same_samples(realdata):
    raw = Cleaning(remove_asides=False, strip_punctuation=False)
    both = {}
    for name in ("polyai_json", "polyai_tfrecord"):
        dialogs, report = read(realdata / "dialog" / name, cleaning=raw)
        assert not report.skipped
        both[name] = dialogs
    assert len(both["polyai_json"]) == 7681 and len(both["polyai_tfrecord"]) == 2300
    # The TFRecord files hold the first samples of each subset, the shards taken in turn.
    for subset in ("train", "test"):
        shards = {}
        for dialog in both["polyai_json"]:
            if dialog.subset == subset:
                shards.setdefault(dialog.place.rsplit(":", 1)[0], []).append(dialog)
        tables = list(shards.values())
        records = [d for d in both["polyai_tfrecord"] if d.subset == subset]
        assert len(records) == {"train": 2000, "test": 300}[subset]
        for i, dialog in enumerate(records):
            expected = tables[i % len(tables)][i // len(tables)]
            assert dialog.turns == expected.turns and dialog.group == expected.group


def test_polyai_fields_are_in_the_order_of_the_talk(realdata):
    """The samples were made from conversations: each is a stretch of one of them."""
    folder = realdata / "dialog"
    with open(folder / "self_dialogue" / "conversations.jsonl", encoding="utf-8") as lines:
        talks = {talk["id"]: talk["turns"] for talk in map(json.loads, lines)}
    raw = Cleaning(remove_asides=False, strip_punctuation=False)
    dialogs, _ = read(folder / "polyai_json", cleaning=raw)
    found = Counter()
    for dialog in dialogs:
        talk = [" ".join(turn.split()) for turn in talks.get(dialog.group, [])]
        n = len(dialog.turns)
        found[any(talk[i : i + n] == dialog.turns for i in range(len(talk) - n + 1))] += 1
    assert found[True] > 0.95 * len(dialogs), found


def test_korean_pairs(realdata):
    dialogs, report = read(realdata / "dialog" / "korean_chatbot")
    assert list(report.files) == ["csv"]
    assert len(dialogs) == 5864 and report.skipped == {"response equals query": 1}
    assert dialogs[0].turns == ["12시 땡!", "하루가 또 가네요."]
    assert all(len(dialog.turns) == 2 for dialog in dialogs)
    assert len(find_sources([str(realdata / "dialog" / "korean_chatbot")], DialogReport())) == 1

"""CONTRIBUTING.md's table "I want to ..." names files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def rows():
    """The table's rows, as (what somebody wants, the paths named for it)."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## I want to ...")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (?!I want|---)(.+?) \| (.+?) \|$", table, re.MULTILINE)
    return [(wish, re.findall(r"`([\w./]+/[\w./]*)`", place)) for wish, place in cells]


def test_the_table_answers_the_ten_questions_of_a_newcomer():
    wishes = " ".join(wish for wish, _ in rows())
    asked = (
        *("schedule", "context of a dialog", "importance measure", "adapters", "story format"),
        *("serve a checkpoint", "UniLM's mask", "metric of replies", "warm-up", "gate picture"),
    )
    assert [word for word in asked if word not in wishes] == []


@pytest.mark.parametrize(("wish", "paths"), rows())
def test_the_files_named_exist(wish, paths):
    assert paths, wish
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_warm_up_of_the_dialog_recipe_is_where_the_table_says():
    script = dict(rows())["change the warm-up of the dialog recipe"][0]
    assert "--warmup-updates" in (ROOT / script).read_text(encoding="utf-8")

"""The names of models, options that belong to one of them, and the choice of an engine."""

from argparse import Namespace

import pytest
import torch

from fairtale.errors import UserError
from fairtale.serving import models
from fairtale.serving.models import EngineOptions, load_engine, served_names, values_by_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/stories/checkpoint_best.pt", "stories"),
        ("runs/stories/checkpoint_3_1000.pt", "stories"),
        ("models/stories-24m.pt", "stories-24m"),
        ("models/folder", "folder"),
        ("models/v1.2", "v1.2"),
    ],
)
def test_a_model_is_called_like_its_file_or_folder(path, name):
    assert served_names([path]) == [name]


def test_a_checkpoint_here_is_called_like_the_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert served_names(["checkpoint_last.pt"]) == ["here"]


@pytest.mark.parametrize(
    ("paths", "given", "part"),
    [
        (["a/x.pt", "b/x.pt"], [], "x.pt: another checkpoint is called 'x' as well"),
        (["a.pt", "b.pt"], ["x"], "1 names for 2 checkpoints"),
        (["a.pt", "b.pt"], ["x", "x"], "is called 'x' as well"),
        (["a.pt"], [""], "1 to 200 printable"),
        (["a.pt"], ["x\n"], "printable"),
        (["a.pt"], ["x" * 201], "1 to 200"),
    ],
)
def test_a_name_must_be_good_and_of_one_model(paths, given, part):
    with pytest.raises(UserError, match=part):
        served_names(paths, given)


def test_a_value_is_for_one_model_or_for_all():
    assert values_by_name("--data", ["dir"], ["a", "b"]) == {"a": "dir", "b": "dir"}
    assert values_by_name("--data", ["b=x=y"], ["a", "b"]) == {"b": "x=y"}
    assert values_by_name("--data", ["c=x"], ["a"]) == {"a": "c=x"}  # a folder of this name
    with pytest.raises(UserError, match="--data a=y: a has x already"):
        values_by_name("--data", ["a=x", "a=y"], ["a", "b"])
    with pytest.raises(UserError, match="--data y: b has x already"):
        values_by_name("--data", ["b=x", "y"], ["a", "b"])


def save(path, task, as_args=False):
    """Write a checkpoint of a task."""
    if as_args:
        state = {"args": Namespace(task=task), "cfg": None}
    else:
        state = {"cfg": {"task": {"_name": task}}, "args": None}
    torch.save({**state, "model": {"w": torch.zeros(1)}}, path)
    return str(path)


@pytest.mark.parametrize("as_args", [False, True])
@pytest.mark.parametrize(
    ("task", "maker"),
    [
        ("story_lm", "_prefix_engine"),
        ("dialog_lm", "_prefix_engine"),
        ("wmt16_translation", "_translation_engine"),
        ("translation", "_translation_engine"),
    ],
)
def test_the_task_chooses_the_engine(tmp_path, monkeypatch, task, maker, as_args):
    monkeypatch.setattr(models, maker, lambda path, options: (path, options))
    path = save(tmp_path / "a.pt", task, as_args)
    assert load_engine(path, EngineOptions(cpu=True)) == (path, EngineOptions(cpu=True))


def test_another_task_is_refused(tmp_path):
    path = save(tmp_path / "a.pt", "dialog_nat")
    with pytest.raises(UserError, match="a.pt: was trained with --task dialog_nat; .*story_lm"):
        load_engine(path, EngineOptions())


def test_options_without_effect_are_refused(tmp_path):
    path = save(tmp_path / "a.pt", "translation")
    with pytest.raises(UserError, match="--cache-mib 5: has no effect on a translation model"):
        load_engine(path, EngineOptions(cache_mib=5))
    with pytest.raises(UserError, match="--lora-adapter d: has no effect"):
        load_engine(path, EngineOptions(lora_adapter="d"))


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"cfg": {"task": {"_name": "story_lm"}}, "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="refused, because"):
        load_engine(str(tmp_path / "evil.pt"), EngineOptions())
    assert not (tmp_path / "written").exists()


def test_only_limits_that_are_given_are_passed_on():
    assert EngineOptions().queue() == {}
    given = EngineOptions(max_running=1, max_waiting_tokens=3)
    assert given.queue() == {"max_running": 1, "max_waiting_tokens": 3}

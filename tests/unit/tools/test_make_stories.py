"""The quickstart's grammar writes many different, well-formed stories, always the same ones."""

import importlib.util
import re
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[3] / "tools" / "make_stories.py"


@pytest.fixture(scope="module")
def grammar():
    spec = importlib.util.spec_from_file_location("make_stories", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(grammar):
    return list(grammar.stories(3000, seed=1))


def test_the_seed_decides(grammar, corpus):
    assert list(grammar.stories(100, seed=1)) == corpus[:100]
    assert list(grammar.stories(100, seed=2)) != corpus[:100]


def test_stories_are_lines_of_whole_sentences(corpus):
    assert len(set(corpus)) == len(corpus)
    for story in corpus:
        assert not re.search(r"[{}|?]\B[{}|]|[{}|\n]|  ", story), story
        assert re.match(r"[A-Z]", story) and story.endswith((".", "!", '"')), story
        assert not re.search(r"[.!?] [a-z]", story), story
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", story), story
        assert story.count('"') % 2 == 0, story
        assert 40 < len(story.split()) < 200, story


def test_a_story_keeps_to_its_two_people(grammar, corpus):
    people = set(grammar.GIRLS + grammar.BOYS)
    for story in corpus:
        assert 1 <= len(people & set(re.findall(r"[A-Z]\w+", story))) <= 2, story


def test_every_plot_and_every_wording_occurs(grammar, corpus):
    text = "\n".join(corpus)
    for plot in (*grammar.PLOTS, grammar.OPENING, grammar.WEATHER, grammar.ENDING):
        for wording in plot.replace("\n", "|").split("|"):
            # The longest stretch without a slot stands for the wording.
            stretch = max(re.split(r"\{[^}]*\}|^\?|\ba ", wording.strip(" ?")), key=len).strip()
            assert stretch.lower() in text.lower(), wording
    openings = sum(story.startswith("Once upon a time") for story in corpus)
    assert openings > 0.5 * len(corpus)  # the prompt that everybody tries first

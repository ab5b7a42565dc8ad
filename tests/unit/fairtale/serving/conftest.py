"""Engines of tiny models, closed at the end of a test."""

import pytest

from fairtale.serving.engine import PrefixEngine
from tests.engine_helpers import story_session

POSITIONS = 64


@pytest.fixture
def make():
    """Build engines that are closed at the end."""
    engines = []

    def build(session, **options):
        engines.append(PrefixEngine(session, **options))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close(5)


@pytest.fixture
def session(tmp_path):
    session = story_session(tmp_path, POSITIONS)
    session.model.transformer.embed_tokens.weight.data[2] = 0  # the end is unlikely
    return session


@pytest.fixture
def engine(make, session):
    return make(session, max_running=4, max_waiting=6)

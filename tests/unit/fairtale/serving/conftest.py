"""Engines of tiny models and without a model, closed at the end."""

import pytest

from fairtale.serving.app import create_app
from fairtale.serving.engine import PrefixEngine
from tests.engine_helpers import story_session
from tests.serving_helpers import FakeEngine

POSITIONS = 64


@pytest.fixture(scope="module")
def engines():
    found = {kind: FakeEngine(kind) for kind in ("story", "dialog", "translation")}
    yield found
    for engine in found.values():
        engine.close(1)


@pytest.fixture(scope="module")
def app(engines):
    return create_app(engines)


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

"""The service does what its OpenAPI document says, to requests that schemathesis draws from it.

Not asked is that everything the document allows is accepted: a document cannot say that a prompt
and its text must fit together into a model's positions, or that one option needs another.
"""

import hypothesis
import pytest
import schemathesis
from schemathesis import Config, GenerationMode

from fairtale.serving.app import create_app
from fairtale.serving.service import AppOptions
from tests.serving_calls import call
from tests.serving_helpers import FakeEngine

KEY = "a-key-for-tests"
CONFIG = {"checks": {"positive_data_acceptance": {"enabled": False}}}
ROUTES = ["POST /v1/completions", "POST /v1/chat/completions", "GET /generate"]


@pytest.fixture(scope="module")
def document():
    engines = {kind: FakeEngine(kind, positions=50) for kind in ("story", "dialog", "translation")}
    app = create_app(engines, AppOptions(api_key=KEY))
    headers = {"Authorization": f"Bearer {KEY}"}
    loaded = schemathesis.openapi.from_asgi(
        "/openapi.json", app, config=Config.from_dict(CONFIG), headers=headers
    )
    yield loaded
    for engine in engines.values():
        engine.close(1)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("route", ROUTES)
def test_the_service_does_what_its_document_says(document, route, mode):
    path, method = route.split()[::-1]
    operation = document[path][method.lower()]

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=15,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def calls(case):
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"})
        tried.append(case)

    tried = []
    calls()
    assert tried


def test_the_document_names_what_is_served():
    engines = {"a": FakeEngine(positions=50), "b": FakeEngine(positions=100)}
    document = call(create_app(engines), "GET", "/openapi.json").json()
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert fields["model"]["enum"] == ["a", "b"]
    (length,) = [part for part in fields["max_tokens"]["anyOf"] if part["type"] == "integer"]
    assert (length["minimum"], length["maximum"]) == (1, 99)
    assert "security" not in document
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
    for engine in engines.values():
        engine.close(1)

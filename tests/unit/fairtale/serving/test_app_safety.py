"""The key, other sites, the log, and the limits of what a client may send."""

import asyncio
import base64
import json
import logging

import pytest

from fairtale.serving.app import create_app
from fairtale.serving.limits import BodyMiddleware
from fairtale.serving.service import AppOptions
from tests.serving_calls import call, complete, error_of
from tests.serving_helpers import FakeEngine

ROUTES = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/story"),
    ("GET", "/generate?sentence=a"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/nope"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("OPTIONS", "/v1/models"),
]


@pytest.fixture(scope="module")
def engines():
    found = {"story": FakeEngine()}
    yield found
    found["story"].close(1)


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_health_asks_for_the_key(engines, method, path):
    app = create_app(engines, AppOptions(api_key="right-key-123"))
    wrong = [{}, bearer("wrong-key-123"), bearer("right-key-12"), bearer("right-key-1234")]
    wrong += [bearer(""), {"authorization": "right-key-123"}, {"authorization": "Basic %%%"}]
    wrong += [{"authorization": b"Bearer \xff\xfe"}]
    for headers in wrong:
        answer = call(app, method, path, headers=headers)
        assert answer.status_code == 401, headers
        assert error_of(answer)["code"] == "invalid_api_key"
        assert "right-key" not in answer.text
        assert answer.headers["www-authenticate"].startswith(("Bearer ", "Basic "))
    assert call(app, method, path, headers=bearer("right-key-123")).status_code != 401


def test_health_asks_for_no_key(engines):
    app = create_app(engines, AppOptions(api_key="right-key-123"))
    assert call(app, "GET", "/health").status_code == 200


def test_a_browser_asks_its_user_for_the_key(engines):
    app = create_app(engines, AppOptions(api_key="right-key-123"))
    # and nothing before it: Chromium reads only the first challenge of a header
    assert call(app, "GET", "/").headers["www-authenticate"].startswith("Basic ")
    assert "Basic" not in call(app, "GET", "/v1/models").headers["www-authenticate"]
    word = base64.b64encode(b"anybody:right-key-123").decode()
    assert call(app, "GET", "/", headers={"authorization": f"Basic {word}"}).status_code == 200
    word = base64.b64encode(b"right-key-123:").decode()
    assert call(app, "GET", "/", headers={"authorization": f"Basic {word}"}).status_code == 401


def test_keys_are_compared_in_constant_time(engines, monkeypatch):
    from fairtale.serving import auth

    compared = []

    def compare(given, key):
        compared.append((given, key))
        return False

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    app = create_app(engines, AppOptions(api_key="right-key-123"))
    assert call(app, "GET", "/docs", headers=bearer("right-key-123")).status_code == 401
    assert compared == [(b"right-key-123", b"right-key-123")]


def test_the_key_is_not_shown(engines):
    assert "right-key-123" not in repr(AppOptions(api_key="right-key-123"))


def test_other_sites_are_not_allowed(engines):
    app = create_app(engines)
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = call(app, "OPTIONS", "/v1/completions", headers=headers)
    assert answer.status_code == 405
    answer = call(app, "GET", "/v1/models", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_site_that_is_named_is_allowed(engines):
    options = AppOptions(api_key="right-key-123", allow_origins=("https://good.example",))
    app = create_app(engines, options)
    headers = {
        "origin": "https://good.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    answer = call(app, "OPTIONS", "/v1/completions", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    # the error, too, can be read by the site
    answer = call(app, "GET", "/v1/models", headers={"origin": "https://good.example"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    answer = call(app, "GET", "/health", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_name_that_points_here_is_not_answered(engines):
    """A web page whose own name points to this machine would be let in by browsers."""
    app = create_app(engines, AppOptions(allow_hosts=("localhost", "127.0.0.1", "::1")))
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert call(app, "GET", "/health", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "", "[", "x@y:z"):
        answer = call(app, "GET", "/v1/models", headers={"host": host})
        assert answer.status_code == 421, host
        assert "--allow-host" in error_of(answer)["message"]


def test_nothing_of_a_request_is_logged(engines, caplog):
    caplog.set_level(logging.WARNING, logger="httpx")  # the client of the test logs addresses
    caplog.set_level(logging.DEBUG, logger="fairtale")  # the last call sets the handler's level
    app = create_app(engines, AppOptions(api_key="right-key-123"))
    headers = bearer("right-key-123")
    call(app, "GET", "/generate?sentence=private", headers=headers)
    body = {"model": "story", "prompt": "private", "user": "private"}
    call(app, "POST", "/v1/completions", json=body, headers=headers)
    call(app, "POST", "/v1/completions", json={**body, "private": 1}, headers=headers)
    call(app, "GET", "/a%0d%0a%1b[31mb", headers=headers)
    assert "private" not in caplog.text and "right-key" not in caplog.text
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("GET /generate 200 ")
    assert lines[1].startswith("POST /v1/completions 200 ")
    assert lines[2].startswith("POST /v1/completions 400 ")
    assert lines[3].startswith("GET /a \\x1b[31mb 404 ")


@pytest.mark.parametrize("stream", [False, True])
def test_texts_are_logged_when_asked_for(engines, caplog, stream):
    caplog.set_level(logging.INFO, logger="fairtale")
    app = create_app(engines, AppOptions(log_requests=True))
    complete(app, prompt="Über мир", seed=1, stream=stream)
    logged = json.loads(caplog.records[0].getMessage())
    assert logged["prompt"] == "Über мир"
    expected = complete(app, prompt="Über мир", seed=1).json()["choices"][0]["text"]
    assert logged["text"] == expected


def test_a_long_body_is_refused(engines):
    app = create_app(engines)
    answer = complete(app, prompt="x" * 10_000_000)
    error = error_of(answer)
    assert answer.status_code == 413 and answer.headers["connection"] == "close"
    assert "1,048,576 are accepted (--max-body)" in error["message"]
    assert complete(app, prompt="x" * 1_000_000).status_code == 200


class Sender:
    """A client that sends a body in parts, and the inner application that counts them."""

    def __init__(self, max_bytes=100, seconds=60.0):
        self.reached, self.sent, self.received = [], [], 0
        self.app = BodyMiddleware(self.inner, max_bytes, seconds)

    async def inner(self, scope, receive, send):
        self.reached.append((await receive())["body"])

    def run(self, parts, headers=()):
        """Send parts; None hangs up, and a number waits for so many seconds."""
        left = iter(parts)

        async def receive():
            part = next(left)
            if part is None:
                return {"type": "http.disconnect"}
            if isinstance(part, float):
                await asyncio.sleep(part)
                part = b""
            self.received += 1
            return {"type": "http.request", "body": part, "more_body": self.received < len(parts)}

        async def send(message):
            self.sent.append(message)

        asyncio.run(self.app({"type": "http", "headers": list(headers)}, receive, send))
        return self.sent[0]["status"] if self.sent else None


def test_a_body_in_parts_is_joined():
    sender = Sender()
    assert sender.run([b"a" * 50, b"b" * 50]) is None
    assert sender.reached == [b"a" * 50 + b"b" * 50]


def test_a_long_body_without_its_length_is_refused_and_not_kept():
    """The client has sent everything when it looks for the answer."""
    sender = Sender()
    assert sender.run([b"a" * 50, b"b" * 51, b"c" * 10_000]) == 413
    assert sender.reached == [] and sender.received == 3


def test_an_endless_body_is_not_read_for_ever():
    sender = Sender()
    assert sender.run([b"a" * 2**20] * 1000) == 413
    assert sender.received == 65


def test_a_client_that_asks_before_it_sends_is_answered_first():
    sender = Sender()
    headers = [(b"content-length", b"101"), (b"expect", b"100-continue")]
    assert sender.run([b"a" * 101], headers) == 413
    assert sender.received == 0


def test_a_slow_sender_is_refused():
    sender = Sender(seconds=0.05)
    assert sender.run([b"a", 30.0, b"b"]) == 408
    assert "0.05 s" in json.loads(sender.sent[1]["body"])["error"]["message"]
    assert sender.reached == []


def test_who_hangs_up_in_mid_body_is_forgotten():
    sender = Sender()
    assert sender.run([b"a", None]) is None and sender.reached == []

"""Clients that hang up, dawdle or come when the service is full, and engines that fail."""

import asyncio
import json
import threading

import pytest

from fairtale.errors import UserError
from fairtale.serving import generation, responses
from fairtale.serving.app import create_app
from fairtale.serving.service import AppOptions
from tests.serving_calls import Exchange, call, complete, error_of, eventually
from tests.serving_helpers import FakeEngine

STREAM = {"model": "story", "prompt": "Once", "stream": True, "min_tokens": 1000}
WHOLE = {**STREAM, "stream": False}


@pytest.fixture
def service():
    """``service(max_running=..., ...)`` makes an engine and its application."""
    engines = []

    def make(options=None, **limits):
        engines.append(FakeEngine(**{"delay": 0.002, **limits}))
        return engines[-1], create_app({"story": engines[-1]}, options)

    yield make
    for engine in engines:
        engine.close(0)


def busy(engine):
    """How many requests run and wait."""
    return engine.stats()[:2]


def value(app, name, **labels):
    """The value of a metric."""
    wanted = [f'{key}="{text}"' for key, text in labels.items()]
    for line in call(app, "GET", "/metrics").text.splitlines():
        if line.startswith(f"fairtale:{name}") and all(word in line for word in wanted):
            return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
def test_who_hangs_up_frees_its_place(service, body):
    engine, app = service(max_running=1)

    async def scenario():
        first, second = Exchange(app, body), None
        await eventually(lambda: busy(engine) == (1, 0))
        second = Exchange(app, body)
        await eventually(lambda: busy(engine) == (1, 1))
        second.hung_up.set()  # in the queue
        await second.end()
        await eventually(lambda: busy(engine) == (1, 0))
        first.hung_up.set()  # in the batch
        await first.end()
        await eventually(lambda: busy(engine) == (0, 0))
        return first, second

    first, second = asyncio.run(scenario())
    if body is WHOLE:
        assert first.sent == second.sent == []
    assert value(app, "request_success_total", finished_reason="abort") == 2


def test_who_hangs_up_while_the_prompt_is_read_frees_its_place(service):
    engine, app = service()
    engine.hold.clear()
    submit = engine.submit

    async def scenario():
        inside, goes_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slow_submit(request, deliver):
            loop.call_soon_threadsafe(inside.set)
            goes_on.wait()
            return submit(request, deliver)

        engine.submit = slow_submit
        exchange = Exchange(app, {**WHOLE, "n": 3})
        await inside.wait()
        exchange.hung_up.set()
        await exchange.end()
        goes_on.set()
        await eventually(lambda: engine.submitted)
        engine.hold.set()
        await eventually(lambda: busy(engine) == (0, 0))

    asyncio.run(scenario())
    assert len(engine.submitted) == 1  # the other two were not submitted any more


def test_a_stream_is_sent_as_it_is_made(service):
    engine, app = service()

    async def scenario():
        exchange = Exchange(app, STREAM)
        await exchange.until(lambda sent: len(sent) > 5)
        assert busy(engine) == (1, 0)
        exchange.hung_up.set()
        await exchange.end()

    asyncio.run(scenario())


def test_a_reader_who_catches_up_misses_nothing(service):
    engine, app = service(delay=0)

    async def scenario():
        exchange = Exchange(app, {**STREAM, "seed": 1})
        exchange.reads.clear()
        await eventually(lambda: engine.submitted and busy(engine) == (0, 0))
        exchange.reads.set()
        await exchange.end()
        return exchange.text

    text = asyncio.run(scenario())
    chunks = [json.loads(e[6:]) for e in text.split("\n\n")[:-2]]
    joined = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert (
        joined == complete(app, prompt="Once", min_tokens=1000, seed=1).json()["choices"][0]["text"]
    )
    assert text.endswith("data: [DONE]\n\n")


def test_a_reader_who_is_too_far_behind_is_cut_off(service, monkeypatch):
    """Alternatives of tokens are what makes a stream large."""
    monkeypatch.setattr(generation, "MAX_BACKLOG", 10_000)
    engine, app = service()

    async def scenario():
        exchange = Exchange(app, {**STREAM, "logprobs": 20})
        await exchange.until(lambda sent: len(sent) > 2)
        exchange.reads.clear()
        await eventually(lambda: busy(engine) == (0, 0))  # long before 1,000 tokens were made
        exchange.reads.set()
        await exchange.end()
        return exchange.text

    text = asyncio.run(scenario())
    assert '"code":"slow_reader"' in text and "[DONE]" not in text
    assert text.count("data: ") < 500
    assert value(app, "request_success_total", finished_reason="abort") == 1


def test_a_full_queue_is_told_at_once(service):
    engine, app = service(max_running=1, max_waiting=3)
    engine.hold.clear()

    async def scenario():
        first = Exchange(app, WHOLE)
        await eventually(lambda: busy(engine) == (0, 1))
        several = Exchange(app, {**WHOLE, "n": 3})  # room for two of them
        await several.end()
        assert sum(busy(engine)) == 3
        engine.hold.set()
        await eventually(lambda: busy(engine) == (1, 0))
        first.hung_up.set()
        await first.end()
        return several.sent

    start, body = asyncio.run(scenario())
    headers = dict(start["headers"])
    assert start["status"] == 429 and headers[b"retry-after"] == b"1"
    error = json.loads(body["body"])["error"]
    assert error["code"] == "overloaded" and "try again in 1 s" in error["message"]
    assert value(app, "request_refused_total", status="429") == 1
    assert value(app, "request_success_total", finished_reason="abort") == 1  # the one that hung up


def test_more_texts_than_the_queue_holds_are_refused_for_good(service):
    engine, app = service(max_waiting=3)
    answer = complete(app, prompt=["a", "b"], n=2)
    error = error_of(answer)
    assert answer.status_code == 400 and error["param"] == "n"
    assert "4 texts, and a request may ask for 3" in error["message"]


def test_a_request_may_not_take_for_ever(service):
    engine, app = service(AppOptions(request_timeout=0.05), delay=0.02)
    error = error_of(complete(app, min_tokens=1000))
    assert error["code"] == "timeout" and "0.05 s (--request-timeout)" in error["message"]
    stream = complete(app, min_tokens=1000, stream=True)
    assert stream.status_code == 200
    assert '"code":"timeout"' in stream.text and "[DONE]" not in stream.text
    asyncio.run(eventually(lambda: busy(engine) == (0, 0)))


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_is_reported(service, stream):
    engine, app = service()
    engine.fail_next = "out of memory"
    answer = complete(app, stream=stream)
    assert answer.status_code == (200 if stream else 500)
    assert "out of memory" in answer.text and "server_error" in answer.text
    assert "[DONE]" not in answer.text
    assert complete(app).status_code == 200
    assert value(app, "request_success_total", finished_reason="error") == 1


def test_a_fault_of_the_service_is_reported_without_details(service, caplog):
    engine, app = service()
    engine.submit = lambda *_: 1 / 0
    error = error_of(complete(app))
    assert error["type"] == "server_error" and "zero" not in error["message"]
    assert "ZeroDivisionError" in caplog.text


def test_a_mistake_that_the_model_finds_is_the_client_s(service, caplog):
    engine, app = service()

    def refuse(*_):
        raise UserError("the prompt has 99 tokens; shorten it")

    engine.submit = refuse
    answer = complete(app)
    assert answer.status_code == 400
    assert error_of(answer)["message"] == "the prompt has 99 tokens; shorten it"
    assert "Traceback" not in caplog.text


def test_a_stream_that_waits_shows_that_it_lives(service, monkeypatch):
    monkeypatch.setattr(responses, "KEEP_ALIVE_SECONDS", 0.01)
    engine, app = service()
    engine.hold.clear()

    async def scenario():
        exchange = Exchange(app, {**STREAM, "min_tokens": 0})
        await exchange.until(lambda sent: b": waiting\n\n" in [m.get("body") for m in sent])
        engine.hold.set()
        await exchange.end()
        assert exchange.text.endswith("data: [DONE]\n\n")

    asyncio.run(scenario())


def test_who_comes_when_the_service_stops_is_told(service):
    engine, app = service()
    app.service.close(1)
    for path, method in (("/health", "GET"), ("/generate?sentence=a", "GET")):
        answer = call(app, method, path)
        assert answer.status_code == 503 and "stopping" in error_of(answer)["message"]
        assert answer.headers["retry-after"]
    assert call(app, "GET", "/metrics").status_code == 200


def test_tokens_are_counted(service):
    engine, app = service()
    complete(app, prompt="a b c", max_tokens=4, n=2)
    assert value(app, "prompt_tokens_total") == 3
    assert value(app, "generation_tokens_total") == 8
    assert value(app, "request_success_total", finished_reason="length") == 2
    assert value(app, "time_to_first_token_seconds_count") == 2
    assert value(app, "time_per_output_token_seconds_count") == 6
    assert value(app, "e2e_request_latency_seconds_count") == 2


def test_what_runs_and_waits_is_seen(service):
    engine, app = service(max_running=2)
    engine.hold.clear()

    async def scenario():
        exchange = Exchange(app, {**WHOLE, "n": 3})
        await eventually(lambda: busy(engine) == (0, 3))
        engine.hold.set()
        await eventually(lambda: busy(engine) == (2, 1))
        seen = Exchange(app, b"", "/metrics", "GET")
        await seen.end()
        exchange.hung_up.set()
        await exchange.end()
        return seen.text

    text = asyncio.run(scenario())
    assert 'fairtale:num_requests_running{model_name="story"} 2.0' in text
    assert 'fairtale:num_requests_waiting{model_name="story"} 1.0' in text
    assert 'fairtale:kv_cache_usage_perc{model_name="story"} 1.0' in text

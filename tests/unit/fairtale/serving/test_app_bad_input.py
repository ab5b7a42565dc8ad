"""Bad requests get the right status, and a message that names option, value, rule and remedy."""

import json

import pytest

from fairtale.serving.strict_json import strict_json
from tests.serving_calls import call, chat, complete, error_of


def refused(answer, status, *parts, param=None):
    error = error_of(answer)
    assert answer.status_code == status, error
    for part in parts:
        assert part in error["message"], error
    assert error["param"] == param
    return error


def post(app, content, path="/v1/completions", kind="application/json"):
    headers = {} if kind is None else {"content-type": kind}
    return call(app, "POST", path, content=content, headers=headers)


@pytest.mark.parametrize(
    ("body", "param", "parts"),
    [
        ({"colour": 1}, "colour", ["colour", "no such option", "leave it out"]),
        ({"temperature": "1"}, "temperature", ['temperature "1"', "a valid number"]),
        ({"temperature": -0.1}, "temperature", ["temperature -0.1", "at least 0", "GET /docs"]),
        ({"temperature": True}, "temperature", ["temperature true", "number"]),
        ({"top_p": 0}, "top_p", ["top_p 0", "above 0"]),
        ({"top_p": 1.1}, "top_p", ["top_p 1.1", "at most 1"]),
        ({"top_k": -2}, "top_k", ["top_k -2", "at least -1"]),
        ({"n": 10_000}, "n", ["n 10000", "at most 128"]),
        ({"n": 0}, "n", ["n 0", "at least 1"]),
        ({"n": 1.0}, "n", ["n 1.0", "integer"]),
        ({"n": 100, "prompt": ["a", "b"]}, "n", ["n 100", "200 texts", "64", "several requests"]),
        ({"max_tokens": 0}, "max_tokens", ["max_tokens 0", "at least 1"]),
        ({"max_tokens": 1024}, "max_tokens", ["max_tokens 1024", "lower max_tokens"]),
        ({"max_tokens": 10**30}, "max_tokens", ["max_tokens 1000000", "at most"]),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", ["min_tokens 9", "max_tokens 8"]),
        ({"stop": ["a"] * 1000}, "stop", ["stop", "at most 16", "1000"]),
        ({"stop": ""}, "stop", ["stop", "0 characters", "1 to 256"]),
        ({"stop": ["a", 3]}, "stop[1]", ["stop[1] 3", "a string"]),
        ({"seed": 2**63}, "seed", ["seed 9223372036854775808", "at most"]),
        ({"seed": 10**400}, "seed", ["seed of more than 60 digits"]),
        ({"logprobs": 21}, "logprobs", ["logprobs 21", "at most 20"]),
        ({"max_tokens": 0, "echo": True}, "max_tokens", ["max_tokens 0", "echo and logprobs"]),
        ({"logit_bias": {"the": 1}}, "logit_bias", ["'the'", "id of a token"]),
        ({"logit_bias": {"1": 101}}, "logit_bias", ["101", "-100 and 100"]),
        ({"repetition_penalty": 0}, "repetition_penalty", ["repetition_penalty 0", "above 0"]),
        ({"best_of": 3}, "best_of", ["best_of 3", "does not have the option", "leave it out"]),
        ({"best_of": True}, "best_of", ["best_of true"]),
        ({"frequency_penalty": 0.5}, "frequency_penalty", ["frequency_penalty 0.5"]),
        ({"suffix": "end"}, "suffix", ['suffix "end"', "leave it out"]),
        ({"stream": 1}, "stream", ["stream 1", "boolean"]),
        ({"stream_options": {}}, "stream_options", ["needs stream"]),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", ["stream_options.x"]),
        ({"prompt": [1, 2]}, "prompt", ["token ids", "send text"]),
        ({"prompt": [[1]]}, "prompt", ["token ids"]),
        ({"prompt": []}, "prompt", ["at least 1"]),
        ({"prompt": None}, "prompt", ["prompt null"]),
        ({"prompt": "a\0b"}, "prompt[0]", ["U+0000", "character 1", "remove it"]),
        ({"prompt": "a\x1b[31m"}, "prompt[0]", ["U+001B"]),
        ({"prompt": ["a", "\x85"]}, "prompt[1]", ["U+0085"]),
        ({"prompt": "x\ud800y"}, "prompt[0]", ["U+D800", "surrogate"]),
        ({"stop": "\udfff"}, "stop[0]", ["U+DFFF"]),
        ({"user": "\ud83d"}, "user", ["U+D83D"]),
        ({"\ud800": 1}, None, ["surrogate"]),
        ({"x" * 5000: 1}, "x" * 60, ["no such option"]),
        ({"model": 3}, "model", ["model 3", "string"]),
        ({"model": "dialog", "prompt": ""}, "prompt", ["prompt ''", "must not be empty"]),
        ({"model": "dialog", "prompt": "a\t\tb"}, "prompt", ["a dialog's turn"]),
        ({"model": "translation", "prompt": " \n"}, "prompt", ["sentence to translate"]),
    ],
)
def test_a_bad_completion_is_refused(app, body, param, parts):
    answer = post(app, json.dumps({"model": "story", "prompt": "a", **body}))
    refused(answer, 400, *parts, param=param)


@pytest.mark.parametrize(
    ("body", "param", "parts"),
    [
        ({"messages": []}, "messages", ["at least 1"]),
        ({"messages": "hello"}, "messages", ["messages", "list"]),
        ({"messages": [{"role": "user"}]}, "messages[0].content", ["is missing"]),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", ["'assistant'"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content[0].type",
            ['"image_url"', "'text'"],
        ),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content", ["empty"]),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "messages[0].role",
            ["'assistant'", "the user's"],
        ),
        ({"top_logprobs": 2}, "top_logprobs", ["needs logprobs"]),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens", ["contradicts"]),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", ["5000"]),
        ({"tools": [{"type": "function"}]}, "tools", ["does not have the option"]),
        ({"response_format": {"type": "json_object"}}, "response_format", ["leave it out"]),
        ({"prompt": "x"}, "prompt", ["no such option"]),
    ],
)
def test_a_bad_chat_is_refused(app, body, param, parts):
    messages = [{"role": "user", "content": "a"}]
    answer = post(
        app,
        json.dumps({"model": "dialog", "messages": messages, **body}),
        path="/v1/chat/completions",
    )
    refused(answer, 400, *parts, param=param)


def test_a_translator_takes_no_instructions(app):
    answer = chat(app, ("system", "be kind"), ("user", "x"), model="translation")
    refused(answer, 400, "'system'", "leave the message out", param="messages[0].role")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "Expecting value"),
        (b"{", "line 1, column 2"),
        (b"null", "must be a JSON object"),
        (b"[1]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"model": NaN}', "NaN"),
        (b'{"top_p": -Infinity}', "-Infinity"),
        (b'{"n": 1, "n": 2}', "'n' is given twice"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "levels"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "digits"),
    ],
    ids=range(11),
)
def test_what_is_no_json_is_refused(app, content, part):
    refused(post(app, content), 400, part)


def test_an_infinite_number_is_refused(app):
    answer = post(app, b'{"model": "story", "prompt": "a", "temperature": 1e999}')
    refused(answer, 400, "temperature", "finite", param="temperature")


def test_json_is_read_in_linear_time():
    """A thousandfold of this would take minutes if names were compared with each other."""
    names = ",".join(f'"{i}":0' for i in range(100_000))
    with pytest.raises(Exception, match="'7' is given twice"):
        strict_json(f'{{{names},"7":1}}'.encode())


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_only_json_is_accepted(app, kind):
    answer = post(app, b'{"model": "story", "prompt": "a"}', kind=kind)
    refused(answer, 415, "content-type", "application/json")


def test_the_header_may_name_the_encoding(app):
    body = b'{"model": "story", "prompt": "a"}'
    assert post(app, body, kind="Application/JSON; charset=utf-8").status_code == 200


def test_an_unknown_model_is_named(app):
    error = refused(complete(app, model="gpt-4"), 404, "'gpt-4'", "story, dialog", param="model")
    assert error["code"] == "model_not_found"
    refused(call(app, "GET", "/v1/models/x"), 404, "'x'", param="model")


@pytest.mark.parametrize("path", ["/nope", "/v1/models/", "/v1/completions/", "/docs/../x"])
def test_an_unknown_route_is_named(app, path):
    error = error_of(call(app, "GET", path))
    assert error["code"] in ("route_not_found", "model_not_found")


def test_another_method_is_refused(app):
    answer = call(app, "GET", "/v1/completions")
    refused(answer, 405, "GET /v1/completions")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("query", "param", "part"),
    [
        ("", "sentence", "is missing"),
        ("sentence=a&x=1", "x", "no such option"),
        ("sentence=a&sentence=b", "sentence", "given twice"),
        ("sentence=%00", "sentence", "U+0000"),
        ("sentence=%FF", None, "not UTF-8"),
        ("sentence=a&max_tokens=x", "max_tokens", "integer"),
        ("sentence=a&temperature=nan", "temperature", "finite"),
        ("sentence=&model=dialog", "sentence", "must not be empty"),
    ],
)
def test_a_bad_query_is_refused(app, query, param, part):
    refused(call(app, "GET", f"/generate?{query}"), 400, part, param=param)


def test_several_mistakes_are_reported_together(app):
    answer = complete(app, temperature=-1, top_p=2, colour=3)
    refused(answer, 400, "temperature -1", "top_p 2", "colour", param="temperature")


def test_a_bad_request_reaches_no_engine(app, engines):
    before = len(engines["story"].submitted)
    complete(app, temperature=-1)
    assert len(engines["story"].submitted) == before


def test_many_and_long_mistakes_make_a_short_answer(app):
    answer = complete(app, **{f"field{i}": "x" * 1000 for i in range(1000)})
    refused(answer, 400, "and 995 further errors", param="field0")
    assert len(answer.content) < 1500

"""What the routes answer to good requests, in OpenAI's format."""

import pytest

from fairtale.serving.interface import GenerationRequest, SamplingOptions
from tests.serving_calls import call, chat, complete, events
from tests.serving_helpers import known_words


def text_of(prompt, **options):
    """The whole text of the fake engine."""
    options = {"temperature": 0.0, **options}
    return "".join(known_words(GenerationRequest(prompt, SamplingOptions(**options))))


def test_a_completion_has_the_format_of_openai(app):
    answer = complete(app, prompt="Once upon", temperature=0, max_tokens=3).json()
    assert answer.pop("id").startswith("cmpl-") and answer.pop("created") > 1.7e9
    assert answer == {
        "object": "text_completion",
        "model": "story",
        "choices": [
            {
                "index": 0,
                "text": "".join(
                    known_words(GenerationRequest("Once upon", SamplingOptions(temperature=0)))[:3]
                ),
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }


def test_a_chat_answer_has_the_format_of_openai(app):
    answer = chat(app, ("user", "Hello"), temperature=0).json()
    assert answer.pop("id").startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": text_of(("Hello",))},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_several_prompts_and_several_texts_of_each(app):
    answer = complete(app, prompt=["one", "two"], n=2, seed=5, echo=True).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    expected = [
        prompt + text_of(prompt, temperature=1.0, seed=seed)
        for prompt in ("one", "two")
        for seed in (5, 6)
    ]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert answer["usage"]["prompt_tokens"] == 2  # each prompt counts once


def test_options_reach_the_engine(app, engines):
    options = {
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": -1,
        "stop": ["x", "yz"],
        "logprobs": 3,
        "repetition_penalty": 1.2,
    }
    assert complete(app, **options, logit_bias={"3": -5}, user="me").status_code == 200
    given = engines["story"].submitted[-1]
    expected = {**options, "stop": ("x", "yz"), "logit_bias": {3: -5.0}}
    assert given == GenerationRequest("a", SamplingOptions(**expected))


def test_what_is_not_given_is_the_default(app, engines):
    neutral = {
        name: None for name in ("temperature", "n", "stop", "seed", "stream_options", "logit_bias")
    }
    complete(app, **neutral, best_of=1, frequency_penalty=0, presence_penalty=0.0, suffix=None)
    assert engines["story"].submitted[-1].options == SamplingOptions()
    chat(app, ("user", "x"), model="translation", tools=[], response_format={"type": "text"})
    assert engines["translation"].submitted[-1].options == SamplingOptions(temperature=0.0)


def test_logprobs_of_completions(app):
    answer = complete(app, temperature=0, max_tokens=3, logprobs=2).json()
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["token_logprobs"] == [-0.5] * 3
    starts = [choice["text"].index(token) for token in logprobs["tokens"]]
    assert logprobs["text_offset"] == starts
    assert [len(top) for top in logprobs["top_logprobs"]] == [2] * 3
    none = complete(app, max_tokens=1, logprobs=0).json()["choices"][0]["logprobs"]
    assert none["top_logprobs"] is None and len(none["tokens"]) == 1


def test_logprobs_of_chats(app):
    answer = chat(app, ("user", "x"), max_tokens=2, logprobs=True, top_logprobs=2, temperature=0)
    (choice,) = answer.json()["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in tokens)
    assert [len(token["top_logprobs"]) for token in tokens] == [2, 2]


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_of_a_chat_is_the_whole_answer_in_parts(app, n):
    options = {"seed": 3, "n": n, "logprobs": True}
    whole = chat(app, ("user", "Hello"), **options).json()
    answer = chat(
        app, ("user", "Hello"), **options, stream=True, stream_options={"include_usage": True}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = events(answer)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    last = chunks.pop()
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    for choice in whole["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(c["delta"].get("content", "") for c in own)
        assert text == choice["message"]["content"]
        tokens = [token for c in own for token in c["logprobs"]["content"]]
        assert tokens == choice["logprobs"]["content"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == ["stop"]
        assert own[-1]["finish_reason"] == "stop"


def test_a_stream_of_a_completion_echoes_first(app):
    whole = complete(app, prompt="Once", seed=1).json()["choices"][0]["text"]
    chunks = events(complete(app, prompt="Once", seed=1, stream=True, echo=True))
    assert chunks[0]["choices"][0]["text"] == "Once"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Once" + whole
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_with_logprobs_has_the_tokens_of_the_prompt_first(app, stream):
    options = {"prompt": "Once upon a", "temperature": 0, "echo": True, "stream": stream}

    def found(**more):
        answer = complete(app, **options, **more)
        choices = [
            c for part in (events(answer) if stream else [answer.json()]) for c in part["choices"]
        ]
        parts = [choice["logprobs"] for choice in choices]
        joined = {name: sum((part[name] or [] for part in parts), []) for name in parts[0]}
        return "".join(choice["text"] for choice in choices), joined, choices[-1]["finish_reason"]

    text, logprobs, reason = found(max_tokens=2, logprobs=1)
    assert text == "Once upon a" + "".join(known_words(app_request("Once upon a"))[:2])
    assert "".join(logprobs["tokens"]) == text and reason == "length"
    assert logprobs["token_logprobs"] == [None, -0.25, -0.25, -0.5, -0.5]
    assert logprobs["text_offset"][:4] == [0, 4, 9, 11] and len(logprobs["text_offset"]) == 5
    assert logprobs["top_logprobs"][0] is None and None not in logprobs["top_logprobs"][1:]
    text, logprobs, reason = found(max_tokens=0, logprobs=0)
    assert (text, reason) == ("Once upon a", "length")
    assert logprobs["token_logprobs"] == [None, -0.25, -0.25] and not logprobs["top_logprobs"]


def app_request(prompt):
    return GenerationRequest(prompt, SamplingOptions(temperature=0))


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_not_shown(app, stream):
    whole = text_of("Once")
    stop = whole[len(whole) // 2 :][:3]
    answer = complete(app, prompt="Once", temperature=0, stop=stop, stream=stream)
    if stream:
        text = "".join(chunk["choices"][0]["text"] for chunk in events(answer))
    else:
        text = answer.json()["choices"][0]["text"]
    assert text == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("model", "messages", "prompt"),
    [
        ("dialog", [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")], "sabc"),
        ("dialog", [("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], 0),
        ("story", [("system", "In Rome"), ("user", "she ran"), ("assistant", " off.\n")], None),
        ("translation", [("user", "old"), ("assistant", "alt"), ("user", "new")], "new"),
    ],
)
def test_messages_become_turns_a_beginning_or_a_sentence(app, engines, model, messages, prompt):
    assert chat(app, *messages, model=model).status_code == 200
    expected = {"sabc": ("s", "a", "b", "c"), 0: ("ab",), None: "In Rome she ran off.\n"}
    assert engines[model].submitted[-1].prompt == expected.get(prompt, prompt)


def test_turns_of_a_completion_are_separated_by_tabs(app, engines):
    complete(app, model="dialog", prompt="a\tb c")
    assert engines["dialog"].submitted[-1].prompt == ("a", "b c")


def test_an_empty_story_has_a_beginning_of_length_zero(app, engines):
    assert complete(app, prompt="").status_code == 200
    assert engines["story"].submitted[-1].prompt == ""


def test_generate(app, engines):
    answer = call(app, "GET", "/generate", params={"sentence": "Über мир", "temperature": "0"})
    assert answer.json() == {"input": "Über мир", "response": text_of("Über мир")}
    answer = call(
        app, "GET", "/generate", params={"sentence": "a", "model": "dialog", "max_tokens": 1}
    )
    assert answer.json()["input"] == "a" and engines["dialog"].submitted[-1].prompt == ("a",)


def test_models_are_listed_and_described(app):
    listed = call(app, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert [(m["id"], m["kind"]) for m in listed["data"]] == [
        (kind, kind) for kind in ("story", "dialog", "translation")
    ]
    assert call(app, "GET", "/v1/models/dialog").json() == listed["data"][1]


def test_health_follows_the_engines(app, engines):
    assert call(app, "GET", "/health").json() == {"status": "ok"}
    engines["dialog"].reason = "a step takes 60 s"
    try:
        answer = call(app, "GET", "/health")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "dialog: a step takes 60 s"
    finally:
        engines["dialog"].reason = None


def test_the_document_and_its_page(app):
    document = call(app, "GET", "/openapi.json").json()
    assert {"/generate", "/v1/completions", "/v1/chat/completions"} < set(document["paths"])
    body = document["components"]["schemas"]["CompletionRequest"]
    assert body["properties"]["model"]["enum"] == ["story", "dialog", "translation"]
    assert body["additionalProperties"] is False
    page = call(app, "GET", "/docs")
    assert "repetition_penalty" in page.text and "/v1/chat/completions" in page.text
    assert "//" not in page.text.replace("http://127.0.0.1:8000", "")  # nothing from outside
    assert "script" not in page.text


def test_the_web_page_is_served_with_its_policy(app):
    page = call(app, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]

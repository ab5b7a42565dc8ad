"""OpenAI's own client, unmodified, against a service in a process of its own."""

import contextlib

import openai
import pytest

from tests.serving_calls import fake_service, wait_until

KEY = "a-key-for-tests"


@pytest.fixture(scope="module")
def service():
    words = ["--max-running", 1, "--max-waiting", 2, "--delay", 0.005, "--api-key", KEY]
    with fake_service(*words) as process:
        yield process


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def test_it_lists_models(client):
    assert [model.id for model in client.models.list()] == ["story", "dialog", "translation"]
    assert client.models.retrieve("dialog").owned_by == "fairtale"


def test_it_completes(client):
    done = client.completions.create(
        model="story", prompt="Once", max_tokens=3, seed=1, logprobs=1, stop=["zzz"]
    )
    assert done.choices[0].finish_reason == "length"
    assert done.usage.completion_tokens == 3
    assert "".join(done.choices[0].logprobs.tokens) == done.choices[0].text


def test_it_streams(client):
    options = {"model": "story", "prompt": "Once", "seed": 1}
    whole = client.completions.create(**options)
    parts = list(client.completions.create(**options, stream=True))
    assert len(parts) > 3
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text


def test_it_chats_with_its_own_answers_as_history(client):
    messages = [{"role": "user", "content": "Hello"}]
    for _ in range(2):
        done = client.chat.completions.create(model="dialog", messages=messages, n=2, seed=1)
        messages += [done.choices[0].message, {"role": "user", "content": "Why?"}]
    assert done.choices[1].message.role == "assistant"
    assert len(done.choices) == 2


def test_it_streams_a_chat_with_usage(client):
    stream = client.chat.completions.create(
        model="translation",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Guten Tag"}]}],
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=2,
        extra_body={"top_k": 5, "repetition_penalty": 1.1, "min_tokens": 2},
    )
    *parts, last = list(stream)
    tokens = [t for part in parts for t in (part.choices[0].logprobs.content or [])]
    assert last.usage.completion_tokens == len(tokens)
    assert "".join(token.token for token in tokens) == "".join(
        part.choices[0].delta.content or "" for part in parts
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"frequency_penalty": 1}, openai.BadRequestError),
        ({"prompt": "x" * 2_000_000}, openai.APIStatusError),
    ],
)
def test_it_understands_refusals(client, options, error):
    with pytest.raises(error) as refusal:
        client.completions.create(**{"model": "story", "prompt": "a", **options})
    assert refusal.value.body["message"] and refusal.value.type
    assert refusal.value.status_code in (400, 404, 413)


def test_it_needs_the_key(service):
    wrong = openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_it_is_told_when_the_queue_is_full(client):
    long = {"model": "story", "prompt": "a", "stream": True, "extra_body": {"min_tokens": 1000}}
    with contextlib.ExitStack() as streams:
        for _ in range(3):
            streams.enter_context(client.completions.create(**long))
        with pytest.raises(openai.RateLimitError) as refusal:
            client.completions.create(model="story", prompt="a")
        assert refusal.value.response.headers["retry-after"] == "1"

    def answered():  # the streams were closed, and free their places
        try:
            return client.completions.create(model="story", prompt="a", max_tokens=1)
        except openai.RateLimitError:
            return False

    wait_until(answered)


def test_a_client_that_tries_again_gets_its_answer(service):
    """The client waits for as long as Retry-After says."""
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=8) as client:
        long = {"model": "story", "prompt": "a", "stream": True, "extra_body": {"min_tokens": 50}}
        streams = [client.completions.create(**long) for _ in range(3)]
        assert client.completions.create(model="story", prompt="a", max_tokens=1).usage
        for stream in streams:
            stream.close()

"""Ways to call the service in tests: a whole answer, an exchange step by step, a real process."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60  # a guard against hanging, nothing is timed


def call(app, method, path, **options):
    """Return the whole answer to one request, as :class:`httpx.Response`."""

    async def send():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asyncio.wait_for(send(), SECONDS))


def complete(app, **body):
    """Return the answer of ``/v1/completions`` of the model ``story``, or the one of ``body``."""
    return call(app, "POST", "/v1/completions", json={"model": "story", "prompt": "a", **body})


def chat(app, *messages, **body):
    """Return the answer of ``/v1/chat/completions`` to (role, content) pairs."""
    listed = [{"role": role, "content": content} for role, content in messages]
    return call(
        app, "POST", "/v1/chat/completions", json={"model": "dialog", "messages": listed, **body}
    )


def answer_on_each_route(url, client, model, sentence):
    """Return the greedy answer of a model, the same by completions, chat, stream and /generate.

    Args:
        url: of the service.
        client: of the library ``openai``.
        model: name of the model.
        sentence: what it is asked.
    """
    options = {"model": model, "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**options, prompt=sentence)
    assert 1 <= whole.usage.completion_tokens <= 8
    text = whole.choices[0].text
    messages = [{"role": "user", "content": sentence}]
    answer = client.chat.completions.create(**options, messages=messages)
    assert answer.choices[0].message.content == text
    parts = client.chat.completions.create(**options, messages=messages, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text
    headers = {"authorization": f"Bearer {client.api_key}"}
    query = {**options, "sentence": sentence}
    plain = httpx.get(f"{url}/generate", params=query, headers=headers)
    assert plain.json() == {"input": sentence, "response": text}
    return text


def events(response):
    """Return the data of the events of a stream, which must end with ``[DONE]``."""
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines), lines
    data = [line.removeprefix("data: ") for line in lines]
    assert data.pop() == "[DONE]"
    return [json.loads(text) for text in data]


def error_of(response):
    """Return the error of an answer, after checking OpenAI's form of it."""
    assert response.status_code >= 400
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert content["error"]["message"] and "\n" not in content["error"]["message"]
    return content["error"]


class Exchange:
    """One request to an ASGI application, whose client may dawdle, or hang up.

    Args:
        app: the application.
        body: JSON of the request, or bytes.
        path: its path.
        method: its method.
    """

    def __init__(self, app, body, path="/v1/completions", method="POST"):
        self.app = app
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.path, self.method = path, method
        self.sent = []  # the messages of the application
        self.hung_up = asyncio.Event()
        self.reads = asyncio.Event()  # while it is cleared, the application's ``send`` waits
        self.reads.set()
        self.more = asyncio.Condition()
        self.asked = False
        self.task = asyncio.ensure_future(self.run())

    async def run(self):
        headers = [(b"content-type", b"application/json"), (b"host", b"service")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "server": ("service", 80),
            "client": ("client", 1),
        }
        await self.app(scope, self.receive, self.send)

    async def receive(self):
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.reads.wait()
        async with self.more:
            self.sent.append(message)
            self.more.notify_all()

    async def until(self, condition):
        """Wait until ``condition(sent messages)`` holds."""
        async with asyncio.timeout(SECONDS), self.more:
            await self.more.wait_for(lambda: condition(self.sent))

    async def end(self):
        """Wait until the application has finished with the request."""
        await asyncio.wait_for(self.task, SECONDS)

    @property
    def text(self):
        """What was sent so far."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def eventually(condition):
    """Wait until a condition of another thread holds."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


class Process:
    """A service in a process of its own.

    Args:
        words: its command; its first line of output ends with its address.
        env: further environment.
    """

    def __init__(self, *words, env=None):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "CUDA_VISIBLE_DEVICES": "", **(env or {})},
        )
        self.line = self.process.stdout.readline()
        if "http" not in self.line:
            self.process.kill()
            raise AssertionError(self.process.communicate()[1])
        self.url = self.line.split()[-1]

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """Return the exit status and what was logged."""
        _, logged = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, logged


@contextlib.contextmanager
def fake_service(*words, env=None):
    """Serve fake engines in a process of its own."""
    service = Process("-m", "tests.serving_helpers", *words, env=env)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.communicate()


def wait_until(condition, seconds=SECONDS):
    """Wait until a condition of another process holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

"""``fairtale serve`` as people start it, with tiny models, and what it refuses at the start."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import openai
import pytest

from tests.cli.fairtale_command import ROOT, WORDS, assert_user_error, dialogs_of_words, fairtale
from tests.serving_calls import Process

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def dialogs(fairseq, tmp_path_factory):
    """A checkpoint of dialogs, whose folder gives the model its name."""
    return dialogs_of_words(fairseq, tmp_path_factory.mktemp("dialogs"))


@pytest.fixture(scope="module")
def service(checkpoint, dialogs, tmp_path_factory):
    """Both models behind one address."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(f"{KEY}\n")
    words = [checkpoint, dialogs, "--cpu", "--port", 0, "--api-key-file", key]
    words += ["--served-model-name", "story", "--served-model-name", "dialog"]
    process = Process("-m", "fairtale", "serve", *words)
    yield process
    process.signal(signal.SIGTERM)
    status, logged = process.end()
    assert status == 0
    assert KEY not in logged and "Once upon" not in logged and "Traceback" not in logged
    assert "story: story, " in logged and "dialog: dialog, " in logged
    assert "others may read" in logged


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def test_the_address_is_printed(service):
    assert service.line == f"Serving story, dialog on http://127.0.0.1:{service.port}\n"
    assert httpx.get(f"{service.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{service.url}/v1/models").status_code == 401


@pytest.mark.parametrize("model", ["story", "dialog"])
def test_each_model_answers_on_each_route(service, client, model):
    sentence = "Once upon a time" if model == "story" else "hello how are you"
    whole = client.completions.create(model=model, prompt=sentence, temperature=0, max_tokens=8)
    text = whole.choices[0].text
    assert 1 <= whole.usage.completion_tokens <= 8
    assert text or model == "dialog"  # which has learned next to nothing
    message = [{"role": "user", "content": sentence}]
    options = {"model": model, "messages": message, "temperature": 0, "max_tokens": 8}
    assert client.chat.completions.create(**options).choices[0].message.content == text
    parts = client.chat.completions.create(**options, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text
    query = {"sentence": sentence, "model": model, "temperature": 0, "max_tokens": 8}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.get(f"{service.url}/generate", params=query, headers=headers)
    assert answer.json() == {"input": sentence, "response": text}
    if model == "dialog":
        assert set(text.split()) <= {*WORDS, "<unk>"}


def test_options_change_the_text(client):
    options = {"model": "story", "prompt": "Once upon", "max_tokens": 12}
    first, again, other = (
        client.completions.create(**options, seed=seed).choices[0].text for seed in (1, 1, 2)
    )
    assert first == again != other
    two = client.completions.create(**options, seed=1, n=2).choices
    assert [choice.text for choice in two] == [first, other]
    stop = first[len(first) // 2 :][:2]
    ended = client.completions.create(**options, seed=1, stop=stop).choices[0]
    assert ended.text == first[: first.index(stop)] and ended.finish_reason == "stop"
    found = client.completions.create(**options, temperature=0, logprobs=2).choices[0]
    assert "".join(found.logprobs.tokens) == found.text
    assert all(len(top) == 2 for top in found.logprobs.top_logprobs)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"prompt": "Once upon a time " * 1000}, "prompt"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ],
)
def test_what_the_model_cannot_do_is_refused(client, options, param):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(**{"model": "story", "prompt": "Once", **options})
    assert refusal.value.param == param and param.split("_")[0] in refusal.value.body["message"]


def test_the_command_imports_no_web_framework_before_it_serves():
    code = "import sys, fairtale.cli.main, fairtale.cli.serve, fairtale.serving.interface\n"
    code += "print({'fastapi', 'uvicorn', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr


def serve(*words, **options):
    return fairtale("serve", *words, "--cpu", "--port", 0, **options)


def test_a_damaged_checkpoint_is_refused_before_anything_is_loaded(checkpoint, tmp_path):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(checkpoint.read_bytes()[:-5000])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = fairtale("serve", checkpoint, damaged, "--cpu", "--port", port)
    assert_user_error(done, str(damaged))


def test_a_missing_package_is_named_before_a_model_is_loaded(tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = serve("no-such.pt", env={"PYTHONPATH": path}, cwd=tmp_path)
    assert_user_error(done, "uvicorn is not installed", "pip install 'fairtale[serve]'")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["none.pt"], ["none.pt", "no such file"]),
        (["a.pt", "b/a.pt"], ["a.pt", "'a'", "--served-model-name"]),
        (["a.pt", "--served-model-name", "x", "--served-model-name", "y"], ["2 names for 1"]),
        (["a.pt", "--allow-origin", "example.org"], ["--allow-origin example.org", "https://"]),
        (["a.pt", "--api-key-file", "short"], ["--api-key-file short", "8 to 512"]),
        (["a.pt", "--max-body", "0"], ["--max-body", "not a size"]),
        (["a.pt", "--grace", "-1"], ["--grace", "above 0"]),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, parts):
    (tmp_path / "short").write_text("abc")
    assert_user_error(serve(*words, cwd=tmp_path), *parts)


def test_a_key_comes_from_one_place(tmp_path):
    (tmp_path / "key").write_text(KEY)
    env = {"FAIRTALE_API_KEY": KEY}
    done = serve("a.pt", "--api-key-file", "key", cwd=tmp_path, env=env)
    assert_user_error(done, "--api-key-file key", "FAIRTALE_API_KEY is set as well")
    assert KEY not in done.stdout + done.stderr

"""``fairtale serve`` as people start it, with tiny models, and what it refuses at the start."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import openai
import pytest
import torch

from fairtale.compat import read_checkpoint
from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session
from fairtale.interop.adapter import Adapter
from fairtale.interop.peft_adapter import write_adapter
from fairtale.modules.lora import AdapterShape
from fairtale.modules.lora_state import base_fingerprint
from fairtale.serving.translation_engine import TranslationEngine
from tests.cli.fairtale_command import ROOT, WORDS, assert_user_error, dialogs_of_words, fairtale
from tests.engine_answers import ask
from tests.serving_calls import Process, answer_on_each_route
from tests.translation_helpers import ENGLISH, write_checkpoint, write_data

KEY = "a-key-of-the-tests"
SENTENCES = {
    "story": "Once upon a time",
    "dialog": "hello how are you",
    "en-ru": ENGLISH[0],
    "tuned": "Once upon a time",
}


@pytest.fixture(scope="module")
def dialogs(fairseq, tmp_path_factory):
    """A checkpoint of dialogs, whose folder gives the model its name."""
    return dialogs_of_words(fairseq, tmp_path_factory.mktemp("dialogs"))


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    """A checkpoint of translations."""
    return write_checkpoint(write_data(tmp_path_factory.mktemp("translation")), updates=30)


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory):
    """A folder with a random adapter of the stories."""
    state, draw = read_checkpoint(str(checkpoint))["model"], torch.Generator().manual_seed(0)
    shapes = [state[f"transformer.layers.{i}.fc1.weight"].shape for i in range(2)]
    weights = {
        (layer, "fc1"): tuple(torch.randn(shape, generator=draw) for shape in ((2, n), (m, 2)))
        for layer, (m, n) in enumerate(shapes)
    }
    folder = tmp_path_factory.mktemp("adapter") / "a"
    shape = AdapterShape(2, 4.0, 0.0, ("fc1",))
    write_adapter(str(folder), Adapter("test", shape, weights, base_fingerprint(state)))
    return folder


@pytest.fixture(scope="module")
def service(checkpoint, dialogs, translation, adapter, tmp_path_factory):
    """All kinds of models behind one address."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(f"{KEY}\n")
    words = [checkpoint, dialogs, translation, checkpoint, "--cpu", "--port", 0]
    words += ["--api-key-file", key, "--lora-adapter", f"tuned={adapter}"]
    words += [word for name in SENTENCES for word in ("--served-model-name", name)]
    process = Process("-m", "fairtale", "serve", *words)
    yield process
    process.signal(signal.SIGTERM)
    status, logged = process.end()
    assert status == 0
    assert KEY not in logged and "Once upon" not in logged and "Traceback" not in logged
    for name, kind in zip(SENTENCES, ("story", "dialog", "translation", "story")):
        assert f"{name}: {kind}, " in logged
    assert "others may read" in logged


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def test_the_address_is_printed(service):
    assert (
        service.line == f"Serving story, dialog, en-ru, tuned on http://127.0.0.1:{service.port}\n"
    )
    assert httpx.get(f"{service.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{service.url}/v1/models").status_code == 401


@pytest.mark.parametrize("model", SENTENCES)
def test_each_model_answers_on_each_route(
    service, client, model, checkpoint, dialogs, translation, adapter
):
    """Greedy texts are those that the library writes without the service."""
    text = answer_on_each_route(service.url, client, model, SENTENCES[model])
    greedy = DecodingOptions(sampling_topk=1, max_len_b=8, min_len=0)
    if model == "en-ru":
        engine = TranslationEngine(translation, cpu=True)
        assert text == ask(engine, SENTENCES[model], max_tokens=8).text != ""
        engine.close(0)
        return
    path, changed = (dialogs if model == "dialog" else checkpoint), {}
    if model == "tuned":
        changed = {"lora_adapter": str(adapter)}
    session = Session.load(str(path), None, True, changed)
    assert text == "".join(session.stream(SENTENCES[model], greedy))
    if model == "dialog":  # which has learned next to nothing
        assert set(text.split()) <= {*WORDS, "<unk>"}
    elif model == "tuned":
        plain = client.completions.create(
            model="story", prompt=SENTENCES[model], temperature=0, max_tokens=8
        )
        assert text != plain.choices[0].text


def test_a_prompt_is_scored(client):
    scored = {"model": "story", "max_tokens": 0, "echo": True, "logprobs": 1}
    found = client.completions.create(**scored, prompt="Once upon a time").choices[0]
    assert found.text == "Once upon a time" and found.finish_reason == "length"
    assert "".join(found.logprobs.tokens).strip() == found.text
    first, *others = found.logprobs.token_logprobs
    assert first is None and all(value < 0 for value in others) and len(others) > 2
    for token, start in zip(found.logprobs.tokens[1:], found.logprobs.text_offset[1:]):
        assert found.text[start:].startswith(token)
    with pytest.raises(openai.BadRequestError, match="does not predict its prompt") as refusal:
        client.completions.create(**scored | {"model": "en-ru"}, prompt="no")
    assert refusal.value.param == "echo"


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

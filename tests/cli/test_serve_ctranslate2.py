"""``fairtale serve --engine ctranslate2`` as people start it, with a tiny export."""

import signal

import httpx
import openai
import pytest

from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session
from fairtale.interop import gpt2_import
from fairtale.interop.ctranslate2_export import export_ctranslate2
from tests.gpt2_helpers import run_import, write_folder
from tests.serving_calls import Process, answer_on_each_route, error_of

pytest.importorskip("ctranslate2", reason="needs the extra ctranslate2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with its export."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2_import, "can_compare", lambda: False)
        run_import(write_folder(folder / "hf"), folder / "model")
    checkpoint = str(folder / "model" / "checkpoint.pt")
    list(export_ctranslate2(checkpoint, str(folder / "ct2"), None, None))
    return folder


def test_an_export_answers_as_its_checkpoint(folder):
    process = Process(
        *("-m", "fairtale", "serve", folder / "ct2", "--engine", "ctranslate2", "--cpu"),
        *("--port", 0),
    )
    try:
        with openai.OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client:
            text = answer_on_each_route(process.url, client, "ct2", "A hen, a")
        session = Session.load(str(folder / "model" / "checkpoint.pt"), cpu=True)
        greedy = DecodingOptions(sampling_topk=1, max_len_b=8, min_len=0)
        assert text == session.continue_text("A hen, a", greedy) != ""
        body = {"model": "ct2", "prompt": "a", "seed": 1}
        refusal = error_of(httpx.post(f"{process.url}/v1/completions", json=body))
        assert refusal["param"] == "seed" and "one seed for all requests" in refusal["message"]
    finally:
        process.signal(signal.SIGTERM)
        status, logged = process.end()
    assert status == 0 and "Traceback" not in logged
    assert "ct2: story, CTranslate2 on cpu, float32" in logged

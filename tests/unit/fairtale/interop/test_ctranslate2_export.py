"""CTranslate2 computes what ``gpt`` computes, and writes the same greedy tokens."""

import pytest
import torch

from fairtale.errors import UserError
from fairtale.interop.ctranslate2_export import export_ctranslate2
from fairtale.interop.logits_check import load_model
from tests.gpt2_helpers import run_import, write_folder

ctranslate2 = pytest.importorskip("ctranslate2", reason="needs the extra ctranslate2")


def greedy(model, prompt, count):
    """Continue ``prompt`` with the most probable of the predicted tokens."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(activation_function="relu", layer_norm_epsilon=0.01, tie_word_embeddings=False),
        dict(activation_function="quick_gelu", n_inner=24, more_entries=3),
        dict(activation_function="tanh"),
        dict(activation_function="silu"),
        dict(activation_function="gelu"),
    ],
)
def test_greedy_tokens_and_scores(changes, tmp_path):
    run_import(write_folder(tmp_path / "hf", **changes), tmp_path / "model")
    checkpoint = str(tmp_path / "model" / "checkpoint.pt")
    said = list(export_ctranslate2(checkpoint, str(tmp_path / "ct2"), None, None))
    assert "weights in float32" in said[-1]
    generator = ctranslate2.Generator(str(tmp_path / "ct2"), device="cpu", intra_threads=1)
    model = load_model(checkpoint, str(tmp_path / "model"))
    entries = model.dictionary.symbols
    prompt = [280, 40, 41, 7, 99]
    found = generator.generate_batch(
        [[entries[i] for i in prompt]],
        max_length=20,
        sampling_topk=1,
        include_prompt_in_result=False,
        end_token="",
    )[0]
    assert found.sequences_ids[0] == greedy(model, prompt, 20)
    scores = generator.score_batch([[entries[i] for i in prompt]])[0].log_probs
    with torch.no_grad():
        expected = model(torch.tensor([prompt]))[0][0].log_softmax(-1)
    expected = [float(expected[place, i]) for place, i in enumerate(prompt[1:])]
    assert scores == pytest.approx(expected, abs=1e-4)


def test_quantization(tmp_path):
    run_import(write_folder(tmp_path / "hf"), tmp_path / "model")
    checkpoint = str(tmp_path / "model" / "checkpoint.pt")
    list(export_ctranslate2(checkpoint, str(tmp_path / "full"), None, None))
    list(export_ctranslate2(checkpoint, str(tmp_path / "int8"), None, "int8"))
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("full", "int8")]
    assert sizes[1] < 0.5 * sizes[0]
    generator = ctranslate2.Generator(str(tmp_path / "int8"), device="cpu", intra_threads=1)
    assert generator.compute_type.startswith("int8")
    names = {path.name for path in (tmp_path / "int8").iterdir()}
    assert names == {"model.bin", "config.json", "vocabulary.json", "tokenizer.json"}


def test_an_existing_output_is_kept(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        list(export_ctranslate2("model.pt", str(tmp_path), None, None))

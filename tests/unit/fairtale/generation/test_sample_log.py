"""Continuations in the log: reproducible, and without effect on the training."""

import logging

import pytest
import torch

from fairtale.data.corpus.vocabulary import TOKENIZER_FILE
from fairtale.generation.sample_log import SampleWriter, sample_continuations
from tests.helpers import dictionary_of, tiny_model, tiny_task, train_tokenizer

TEXTS = ["the cat ran to the cat", "a cat and a dog", "the dog ran"]
PROMPTS = ["the cat", "a", "the dog and the cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    train_tokenizer(folder / TOKENIZER_FILE, TEXTS * 5)
    return folder


@pytest.fixture
def task(folder):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / TOKENIZER_FILE))
    return tiny_task(dictionary_of(processor), data=str(folder))


@pytest.fixture
def model(task):
    return tiny_model(task.dictionary)


def test_samples_repeat_and_depend_on_their_settings(task, model):
    first, speed = sample_continuations(task, model, PROMPTS, 8)
    torch.rand(3)  # change the random state
    again, _ = sample_continuations(task, model, PROMPTS, 8)
    assert first == again and len(first) == 3 and speed > 0
    assert sample_continuations(task, model, PROMPTS, 8, seed=2)[0] != first
    assert sample_continuations(task, model, PROMPTS, 8, temperature=5.0)[0] != first
    assert sample_continuations(task, model, PROMPTS, 8, topk=1)[0] != first


def test_one_best_is_greedy(task, model):
    (text,), _ = sample_continuations(task, model, PROMPTS[:1], 5, topk=1)
    prompt = torch.cat([torch.tensor([0]), task.encode_prompt(PROMPTS[0])[:-1]])
    words = []
    with torch.no_grad():
        for step in range(5):
            logits = model(torch.cat([prompt, torch.tensor(words).long()])[None])[0][0, -1]
            logits[1] = -torch.inf
            if step == 0:
                logits[2] = -torch.inf
            words.append(int(logits.argmax()))
    assert 2 not in words
    assert text == task.decode_tokens(torch.tensor(words))


def test_training_goes_on_as_if_nothing_had_happened(task, model):
    model.train()
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    sample_continuations(task, model, PROMPTS, 8)
    assert torch.equal(torch.rand(4), expected)
    assert model.training and model.transformer.layers[0].training
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    sample_continuations(task, model, PROMPTS, 8)
    assert not model.training


def test_a_length_is_kept(task, model):
    lengths = []
    decode = task.decode_tokens
    task.decode_tokens = lambda tokens: lengths.append(len(tokens)) or decode(tokens)
    sample_continuations(task, model, PROMPTS, 3)
    assert max(lengths) <= 4  # three tokens and EOS


def test_the_log_holds_every_sample(caplog):
    with caplog.at_level(logging.INFO):
        SampleWriter().write(["Once", "One day"], [" upon", ","], 120, 33.3)
    assert [r.getMessage() for r in caplog.records] == [
        "sample 0 @ 120 updates: Once| upon",
        "sample 1 @ 120 updates: One day|,",
    ]


def test_tensorboard_holds_every_sample_as_text(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra dev"
    )
    writer = SampleWriter(str(tmp_path))
    for step in (10, 20):
        writer.write(["Once", "One day"], [f" upon {step}", ","], step, 33.5)
    writer.writer.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "samples"))
    events.Reload()
    found = events.Tensors("sample/0/text_summary")
    assert [e.step for e in found] == [10, 20]
    texts = [e.tensor_proto.string_val[0].decode() for e in found]
    assert texts == ["**Once** upon 10", "**Once** upon 20"]
    assert events.Tags()["scalars"] == ["sample_tokens_per_s"]
    assert [e.value for e in events.Scalars("sample_tokens_per_s")] == [33.5, 33.5]

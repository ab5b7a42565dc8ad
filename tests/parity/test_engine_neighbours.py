"""What the engine writes for a request does not depend on the other requests, to the last bit."""

import random
from dataclasses import replace

import pytest
import torch

from fairtale.generation.options import DecodingOptions
from fairtale.modules.lora import AdapterShape, add_adapters
from fairtale.serving.engine import PrefixEngine
from tests.engine_helpers import ask, dialog_session, story_session, trained_session
from tests.helpers import randomize

GREEDY = {"temperature": 0, "max_tokens": 20, "logprobs": 3}
SEEDED = {"temperature": 1.2, "seed": 11, "max_tokens": 20, "logprobs": 3}


def story_prompts(count, longest=30, words=40):
    draw = random.Random(5)
    return [
        " ".join(f"w{draw.randrange(words)}" for _ in range(draw.randrange(longest)))
        for _ in range(count)
    ]


def dialog_prompts(count, words=40):
    draw = random.Random(5)

    def turn():
        return " ".join(f"w{draw.randrange(words)}" for _ in range(draw.randrange(1, 9)))

    return [tuple(turn() for _ in range(draw.randrange(1, 5))) for _ in range(count)]


def mixed(count):
    """Options of neighbours."""
    kinds = (
        {"temperature": 0},
        {"top_p": 0.7, "seed": 3},
        {"top_k": 5, "repetition_penalty": 1.5},
        {"logit_bias": {7: 5.0}, "logprobs": 2, "min_tokens": 9},
        {"temperature": 3.0, "max_tokens": 7},
        {"stop": ("w1", "w2 w3")},
    )
    return [kinds[i % len(kinds)] for i in range(count)]


def found(answer):
    """Return all that is known of a text and its prompt: exact log-probabilities, too."""
    assert answer.last.error is None
    prompt = [part.prompt for part in answer.parts if part.prompt is not None]
    return answer.text, answer.reason, answer.logprobs, prompt


def alone(engine, prompts, options):
    return [found(ask(engine, prompt, **options)) for prompt in prompts]


def check(session, prompts, options_of_all, **engine_options):
    """Compare texts alone, in batches of 8, all at once, and joining others in mid-flight."""
    engine = PrefixEngine(session, **engine_options)
    try:
        for options in options_of_all:
            expected = alone(engine, prompts, options)
            for size in (8, len(prompts)):
                together = []
                for first in range(0, len(prompts), size):
                    answers = [ask(engine, p, **options) for p in prompts[first : first + size]]
                    together += map(found, answers)
                assert together == expected
            assert joining(engine, prompts, options) == expected
    finally:
        engine.close(5)


def joining(engine, prompts, options):
    """Submit each request when another one, with other options, has run for some steps."""
    others = mixed(len(prompts))
    answers = [None] * len(prompts)

    def join(number):
        def on_part(answer):
            if len(answer.parts) == 1 + number % 3:
                answers[number] = ask(engine, prompts[number], **options)

        return on_part

    neighbours = [
        ask(engine, prompts[-1 - i], join(i), **{"max_tokens": 19, "min_tokens": 5, **others[i]})
        for i in range(len(prompts))
    ]
    for number, neighbour in enumerate(neighbours):
        if neighbour.last and answers[number] is None:  # it was too short
            answers[number] = ask(engine, prompts[number], **options)
    return [found(answer) for answer in answers]


def test_a_trained_model_writes_the_same_with_any_neighbours(tmp_path):
    session = trained_session(tmp_path)
    every_way = (
        GREEDY,
        SEEDED,
        {**SEEDED, "top_k": 3, "top_p": 0.8, "repetition_penalty": 1.1},
    )
    check(session, story_prompts(24, words=60), every_way)


def test_many_greedy_texts_are_those_of_the_session(tmp_path):
    session = trained_session(tmp_path)
    prompts = story_prompts(80, words=60)
    engine = PrefixEngine(session)
    answers = [ask(engine, prompt, temperature=0, max_tokens=30) for prompt in prompts]
    greedy = DecodingOptions(sampling_topk=1, max_len_b=30, min_len=0)
    expected = [session.continue_text(prompt, greedy) for prompt in prompts]
    assert [answer.text for answer in answers] == expected
    assert len(set(expected)) > 30
    engine.close(5)


def test_seeded_texts_are_those_of_the_session(tmp_path):
    session = trained_session(tmp_path)
    engine = PrefixEngine(session)
    prompts = story_prompts(20, words=60)
    for ours, theirs in (
        ({}, {"sampling_topk": -1}),
        ({"top_k": 4, "temperature": 2.0}, {"sampling_topk": 4, "temperature": 2.0}),
        ({"top_p": 0.6}, {"sampling_topp": 0.6}),
    ):
        options = DecodingOptions(max_len_b=20, min_len=0, seed=9, **theirs)
        answers = [ask(engine, prompt, seed=9, max_tokens=20, **ours) for prompt in prompts]
        for prompt, answer in zip(prompts, answers):
            assert answer.text == session.continue_text(prompt, options)
        again = replace(options, seed=10)
        assert any(a.text != session.continue_text(p, again) for p, a in zip(prompts, answers))
    engine.close(5)


@pytest.mark.parametrize("unilm", [False, True])
def test_dialogs(unilm, tmp_path):
    session = dialog_session(tmp_path, unilm)
    prompts = dialog_prompts(10)
    greedy = GREEDY | {"max_tokens": 15, "prompt_logprobs": not unilm}
    check(session, prompts, (greedy, SEEDED | {"max_tokens": 15}))
    engine = PrefixEngine(session)
    greedy = DecodingOptions(sampling_topk=1, max_len_b=15, min_len=0)
    answers = [ask(engine, prompt, temperature=0, max_tokens=15) for prompt in prompts]
    assert [a.text for a in answers] == ["".join(session.stream(p, greedy)) for p in prompts]
    engine.close(5)


@pytest.mark.parametrize(
    "shape",
    [
        {"embed_dim": 20, "num_heads": 5, "ffn_dim": 12},  # no multiple of a vector register
        {"untied_output": True, "normalize_before": False},
        {"num_predicted": 30},
        {"activation_fn": "relu", "num_layers": 1},
    ],
)
def test_shapes(shape, tmp_path):
    session = story_session(tmp_path, **shape)
    check(session, story_prompts(12, words=20), (GREEDY, SEEDED))


def test_adapters(tmp_path):
    session = story_session(tmp_path)
    greedy = DecodingOptions(sampling_topk=1, max_len_b=20, min_len=0)
    before = session.continue_text("w1 w2", greedy)
    add_adapters(session.model.transformer, AdapterShape(rank=2, alpha=4.0))
    randomize(session.model.transformer, seed=4)
    session.model.eval()
    after = session.continue_text("w1 w2", greedy)
    assert after != before
    engine = PrefixEngine(session)
    assert ask(engine, "w1 w2", temperature=0, max_tokens=20).text == after
    engine.close(5)
    check(session, story_prompts(10), (GREEDY,))


def test_few_rows_and_long_prompts_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("fairtale.serving.engine.READ_TOKENS", 16)
    session = story_session(tmp_path, positions=100)
    prompts = story_prompts(10, longest=70)
    check(session, prompts, ({**GREEDY, "prompt_logprobs": True}, SEEDED), max_running=5)
    engine = PrefixEngine(session)
    options = DecodingOptions(sampling_topk=1, max_len_b=20, min_len=0)
    for prompt in prompts:
        answer = ask(engine, prompt, temperature=0, max_tokens=20)
        assert answer.text == session.continue_text(prompt, options)
    engine.close(5)


@pytest.mark.slow
def test_several_threads(tmp_path):
    before = torch.get_num_threads()
    try:
        check(trained_session(tmp_path), story_prompts(20, words=60), (GREEDY,), threads=2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    session = trained_session(tmp_path)
    session.model.cuda()
    check(session, story_prompts(24, words=60), (GREEDY, SEEDED))

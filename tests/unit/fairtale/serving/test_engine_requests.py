"""Requests that the engine refuses, and dialogs that are too long."""

import pytest

from fairtale.serving.interface import RequestError
from tests.engine_helpers import ask, dialog_session

GREEDY = {"temperature": 0}


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"max_tokens": 0}, "max_tokens", "max_tokens 0: must be at least 1"),
        ({"max_tokens": 62}, "max_tokens", "max_tokens 62: at most 61 .* 63 positions, .* takes 2"),
        ({"min_tokens": -1}, "min_tokens", "min_tokens -1: must not be negative"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens", "min_tokens 4: must not exceed"),
        ({"min_tokens": 62}, "min_tokens", "min_tokens 62: at most 61 new tokens"),
        ({"temperature": -0.1}, "temperature", "temperature -0.1: must be a finite number"),
        ({"temperature": float("nan")}, "temperature", "temperature nan"),
        ({"top_p": 0.0}, "top_p", "top_p 0.0: must be above 0"),
        ({"top_p": 1.1}, "top_p", "top_p 1.1: .* at most 1"),
        ({"top_k": -2}, "top_k", "top_k -2: must be at least 1, or -1 or 0"),
        ({"seed": 1 << 64}, "seed", "seed 18446744073709551616: must be an integer of 64 bits"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "repetition_penalty 0.0: must be"),
        ({"logprobs": 21}, "logprobs", "logprobs 21: must be from 0 to 20"),
        ({"prompt_logprobs": True}, "prompt_logprobs", "prompt_logprobs True: needs logprobs"),
        ({"logit_bias": {44: 1.0}}, "logit_bias", "token 44: the model has the tokens 0 to 43"),
        ({"logit_bias": {4: 101.0}}, "logit_bias", "logit_bias 101.0 of token 4"),
        ({"logit_bias": dict.fromkeys(range(2000), 1.0)}, "logit_bias", "with 2000 tokens"),
        ({"stop": ("a",) * 17}, "stop", "stop with 17 strings: at most 16"),
        ({"stop": ("a", "")}, "stop", "an empty string is in every text"),
        ({"stop": ("a" * 257,)}, "stop", "a string of 257 characters: at most 256"),
        ({"stop": ("\ud800",)}, "stop", "U\\+D800, half of a surrogate pair"),
    ],
)
def test_options_that_break_a_rule_are_refused(engine, options, param, message):
    with pytest.raises(RequestError, match=message) as refused:
        ask(engine, "w1 w2", **options)
    assert refused.value.param == param and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("w1 " * 63, "prompt of 63 tokens: the model has 63 positions"),
        ("w1 " * 10**6, "prompt of 3000000 bytes: the model reads at most 62 tokens: shorten it"),
        ("w1 \x00", "character 4 is the control character U\\+0000"),
        ("w1 \udcff", "character 4 is U\\+DCFF, half of a surrogate pair"),
        (("w1", "w2"), "the model continues stories, one text"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(engine, prompt, message):
    with pytest.raises(RequestError, match=message) as refused:
        ask(engine, prompt)
    assert refused.value.param == "prompt"


def test_prompts_of_dialogs(make, tmp_path):
    engine = make(dialog_session(tmp_path))
    for turns, message in (
        ((), "there are no turns"),
        (("w1", ""), "the last turn is empty"),
        (("w1 " * 39,), "newest turn has 40 tokens, and the model reads at most 39"),
        (("w1 " * 9999,), "prompt of 29997 bytes"),
    ):
        with pytest.raises(RequestError, match=message):
            ask(engine, turns)
    with pytest.raises(RequestError, match="at most 19 new .* no longer replies: lower max_tokens"):
        ask(engine, ("w1",), max_tokens=20)
    short = ask(engine, ("w3 w4", "w1 w2"), **GREEDY)
    # older turns that do not fit are left out, as in chat
    for older in (("w5 " * 9999, "w3 w4"), ("w9", "w5 " * 38, "w3 w4")):
        answer = ask(engine, (*older, "w1 w2"), **GREEDY)
        assert answer.text == short.text and answer.ticket.prompt_tokens == 6

"""Continuations that are generated token by token."""

import pytest
import torch

from fairtale.errors import UserError
from fairtale.generation.options import DecodingOptions
from fairtale.generation.processors import ContextNgramBlock
from fairtale.generation.streaming import (
    Prefix,
    choose_token,
    stream_tokens,
)
from tests.helpers import generate, tiny_dictionary, tiny_model, tiny_task

END = 2


def stream(model, prompt, forbidden=(), processors=(), generator=None, **options):
    tokens = torch.tensor([[0, *prompt]])
    net_input = {"src_tokens": tokens, "src_lengths": torch.tensor([tokens.size(1)])}
    prefix = Prefix(net_input, END, forbidden)
    chosen = DecodingOptions(**{"max_len_b": 8, **options})
    return list(stream_tokens(model, prefix, chosen, processors, generator))


def test_greedy_streaming_equals_beam_search_with_one_beam():
    dictionary = tiny_dictionary()
    model = tiny_model(dictionary, seed=5)
    for prompt in ([4, 5], [], [9, 10, 11, 12]):
        best = generate(tiny_task(dictionary), [model], [prompt], beam=1)[0][0]["tokens"]
        assert stream(model, prompt, sampling_topk=1) == best[best != END].tolist()


def test_streaming_ends_at_the_last_position():
    model = tiny_model(max_positions=8, seed=5)
    assert len(stream(model, [4, 5, 6], sampling_topk=5, min_len=99, max_len_b=99)) == 4


def test_forbidden_tokens_and_repeated_ngrams_are_never_drawn():
    model = tiny_model(max_positions=16, seed=5)
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        tokens = stream(
            model,
            [4],
            sampling_topk=-1,
            temperature=5.0,
            max_len_b=12,
            min_len=12,
            forbidden=(0, 1, 4, 5),
            no_repeat_ngram_size=1,
            generator=random,
        )
        assert not {0, 1, 4, 5} & set(tokens)
        assert len(set(tokens)) == len(tokens) == 12


def test_the_nucleus_is_the_smallest_set_of_that_probability():
    lprobs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draw = torch.Generator().manual_seed(0)

    def support(**options):
        return {choose_token(lprobs, generator=draw, **options) for _ in range(300)}

    assert support(topk=0, topp=0.8) == {0, 1}
    assert support(topk=0, topp=0.81) == {0, 1, 2}
    assert support(topk=2, topp=1.0) == {0, 1}
    assert support(topk=0, topp=1.0) == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [1e-3, 1e-300])
def test_what_masks_leave_can_be_drawn_at_any_temperature(temperature):
    model = tiny_model(max_positions=24, seed=5)
    logits = model.decoder.forward

    def sure_of_the_end(*args):  # one token is so probable that all others underflow
        out = logits(*args)
        out[0][..., END] += 200.0
        return out

    model.decoder.forward = sure_of_the_end
    assert stream(model, [4], min_len=0) == []
    for topp in (1.0, 0.5):
        options = {"temperature": temperature, "forbidden": (0, 1, 5)}
        options |= {"sampling_topk": -1} if topp == 1 else {"sampling_topp": topp}
        tokens = stream(model, [4], min_len=6, max_len_b=20, **options)
        assert len(tokens) == 6 and not {0, 1, 5} & set(tokens)


def test_a_token_remains_where_everything_is_blocked():
    model, size = tiny_model(max_positions=24, seed=5), len(tiny_dictionary())
    prompt = list(range(4, size))  # every word

    tokens = stream(
        model, prompt, forbidden=(0, 1, 3), min_len=3, processors=[ContextNgramBlock(1)]
    )
    assert len(tokens) >= 3 and not {0, 1, 3} & set(tokens)


def test_temperature_must_be_positive():
    with pytest.raises(UserError, match="--temperature 0"):
        stream(tiny_model(), [4], temperature=0)

"""Log-probabilities of prompts, against those of the model for the whole row."""

import pytest
import torch

from fairtale.serving.interface import RequestError
from tests.engine_helpers import ask, dialog_session, story_session

SCORED = {"temperature": 0, "logprobs": 3, "prompt_logprobs": True}


def scores(answer):
    """The prompt's tokens, which are delivered in one part, before any text."""
    assert answer.last.error is None
    (found,) = [part.prompt for part in answer.parts if part.prompt is not None]
    assert answer.parts[0].prompt is found
    return found


def check(engine, session, answer):
    """Compare with the model's own log-probabilities of the row that it has read."""
    found = scores(answer)
    net_input = answer.ticket.prefix.net_input
    tokens = net_input["src_tokens"]
    transformer = session.model.transformer
    with torch.no_grad():
        features = transformer(tokens, net_input.get("positions"), net_input.get("segments"))
        lprobs = transformer.logits(features)[0].double().log_softmax(1)
    assert len(found) == tokens.size(1) - 1 == answer.ticket.prompt_tokens
    assert found[0].logprob is None and found[0].top == ()
    chosen = lprobs[1:-1].gather(1, tokens[0, 2:, None]).squeeze(1)
    # pieces of a prompt attend by another kernel than a whole row, which rounds otherwise in fp32
    own = torch.tensor([token.logprob for token in found[1:]], dtype=torch.float64)
    torch.testing.assert_close(own, chosen, atol=2e-6, rtol=0)
    best = lprobs[1:-1].topk(3)
    for token, values, ids in zip(found[1:], best.values.tolist(), best.indices.tolist()):
        assert [value for _, _, value in token.top] == pytest.approx(values, abs=2e-6)
        assert [(text, data) for text, data, _ in token.top] == [engine._names(i) for i in ids]
    return "".join(token.data.decode() for token in found)


@pytest.mark.parametrize("piece", [16, 256])
def test_stories(make, tmp_path, monkeypatch, piece):
    monkeypatch.setattr("fairtale.serving.engine.READ_TOKENS", piece)
    monkeypatch.setattr("fairtale.serving.prompt_logprobs._AT_ONCE", 7)
    session = story_session(tmp_path)
    engine = make(session)
    prompts = ["w3 w1 w4 w1 w5", "w9", "w2 w7 " * 20, "w8 " * 17]
    answers = [ask(engine, prompt, **SCORED, max_tokens=3) for prompt in prompts]
    for prompt, answer in zip(prompts, answers):
        assert check(engine, session, answer).split() == prompt.split()
        plain = ask(engine, prompt, temperature=0, logprobs=3, max_tokens=3)
        assert (plain.text, plain.logprobs) == (answer.text, answer.logprobs)
        assert all(part.prompt is None for part in plain.parts)


def test_dialogs(make, tmp_path):
    session = dialog_session(tmp_path, unilm=False)
    engine = make(session)
    answer = ask(engine, ("w1 w2", "w3", "w4 w5"), **SCORED, max_tokens=2)
    assert check(engine, session, answer) == "w1 w2 \tw3 \tw4 w5 "
    assert scores(answer)[-1].token == "<SEP>"


def test_only_the_prompt_is_scored(make, tmp_path):
    session = story_session(tmp_path)
    engine = make(session)
    neighbour = ask(engine, "w1", temperature=0, max_tokens=20)
    answer = ask(engine, "w1 w2 w3", **SCORED, max_tokens=0)
    assert (answer.text, answer.num_tokens, answer.reason) == ("", 0, "length")
    assert check(engine, session, answer) == "w1 w2 w3 "
    assert scores(ask(engine, "", **SCORED, max_tokens=0)) == ()
    longest = ask(engine, "w1 " * 63, **SCORED, max_tokens=0)  # it leaves no room for a text
    assert len(scores(longest)) == 63 and longest.reason == "length"
    assert neighbour.text == ask(engine, "w1", temperature=0, max_tokens=20).text


def test_a_prompt_without_probabilities_is_refused(make, tmp_path):
    engine = make(dialog_session(tmp_path))
    with pytest.raises(RequestError, match="echo with logprobs: .* in both directions") as refused:
        ask(engine, ("w1",), **SCORED)
    assert refused.value.param == "prompt_logprobs"
    engine = make(dialog_session(tmp_path, unilm=False))
    for older in ("w5 " * 9999, "w5 " * 38):
        with pytest.raises(RequestError, match="leaves out its oldest turns .* send fewer turns"):
            ask(engine, (older, "w1 w2"), **SCORED)

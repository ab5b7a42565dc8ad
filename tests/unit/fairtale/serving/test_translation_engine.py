"""Translations of the service: text in, text out, batches, options, cancelling, closing.

tests/cli/test_translation_engine.py compares them with fairseq-interactive.
"""

import shutil

import pytest

from fairtale.errors import UserError
from fairtale.serving import batch_engine
from fairtale.serving.interface import Overloaded, RequestError, ShuttingDown
from fairtale.serving.translation_engine import TranslationEngine
from tests.engine_answers import ask, submit
from tests.translation_helpers import ENGLISH, RUSSIAN, write_checkpoint, write_data

WILD = {"temperature": 1.5}
OTHERS = ["the dog ran", "a cat", "yes , it's the cat", "no no no", 'said the dog: "home".']


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def path(data):
    return write_checkpoint(data, updates=60)


@pytest.fixture(scope="module")
def engine(path):
    made = TranslationEngine(path, cpu=True)
    yield made
    made.close(0)


@pytest.fixture
def own(path):
    """An engine that a test may close or fill."""
    made = TranslationEngine(path, cpu=True, max_running=2, max_waiting=3, max_waiting_tokens=200)
    yield made
    made.close(0)


# --------------------------------------------------------------------------- sentences


def test_a_sentence_is_translated(engine):
    answer = ask(engine, ENGLISH[1])
    assert answer.text == RUSSIAN[1] and answer.reason == "stop"
    assert answer.num_tokens > 10 and answer.ticket.prompt_tokens > 10
    assert engine.kind == "translation" and "en-ru on cpu, float32" in engine.describe()


def test_every_line_is_a_sentence(engine):
    text = f"\n{ENGLISH[0]}\r\n\n  \n{ENGLISH[1]}\nno\n"
    answer = ask(engine, text)
    lines = ["", RUSSIAN[0], "", "", RUSSIAN[1], ask(engine, "no").text, ""]
    assert answer.text == "\n".join(lines)
    single = [ask(engine, line) for line in (ENGLISH[0], ENGLISH[1], "no")]
    assert answer.num_tokens == sum(one.num_tokens for one in single)
    assert ask(engine, (ENGLISH[0], "what?", ENGLISH[1])).text == RUSSIAN[1]  # of a dialog


def test_neighbours_change_nothing(engine):
    """Requests of different lengths and options, alone and together."""
    sentences = [*ENGLISH, *OTHERS]
    options = [{}, WILD | {"seed": 1}, {"min_tokens": 9}, WILD | {"seed": 2, "top_k": 3}]
    options += [{"logit_bias": {30: 5.0}, "logprobs": 0}, WILD | {"seed": 1, "top_p": 0.7}]
    options += [{"max_tokens": 3}, {"logit_bias": {2: -100.0}}]  # the latter ends at its limit
    requests = [(text, options[i % len(options)]) for i, text in enumerate(sentences * 2)]
    alone = [ask(engine, text, **given) for text, given in requests]
    together = [submit(engine, text, **given) for text, given in requests]
    for one, other in zip(alone, together):
        assert other.wait().text == one.text
        assert other.num_tokens == one.num_tokens and other.reason == one.reason
        before, after = ([entry.logprob for entry in each.logprobs] for each in (one, other))
        assert after == pytest.approx(before, abs=1e-4)
    assert len({answer.text for answer in alone}) > 8


def test_a_seed_repeats_a_sample(engine):
    texts = [ask(engine, ENGLISH[1], seed=seed, **WILD).text for seed in (5, 5, 6, -1)]
    assert texts[0] == texts[1] and len(set(texts)) == 3
    free = {ask(engine, ENGLISH[1], **WILD).text for _ in range(4)}
    assert len(free) > 1
    lines = ask(engine, "\n".join([ENGLISH[1]] * 4), seed=5, **WILD).text.split("\n")
    assert len(set(lines)) > 1  # each has random numbers of its own
    cold = ask(engine, ENGLISH[1], temperature=1e-6, seed=1).text
    assert cold == ask(engine, ENGLISH[1], temperature=2.0, top_k=1, seed=9).text


def test_a_long_text_does_not_hold_up_a_short_one(own):
    """Two sentences a batch; the one-line request is served with the second line of the other."""
    order = []
    first = submit(own, "no\nno\nno\nno\nno", hold=True)
    assert first.held.wait(60)
    second = submit(own, "no", seed=1, **WILD)
    third = submit(own, "no")
    for name, answer in (("first", first), ("second", second), ("third", third)):
        answer._done.set = lambda name=name, done=answer._done.set: (order.append(name), done())
    assert own.stats()[:2] == (1, 2)
    first.release()
    assert [answer.wait().reason for answer in (first, third)] == ["stop", "stop"]
    second.wait()
    assert first.text == "\n".join([third.text] * 5)
    assert order[-1] == "first"
    assert own.stats() == (0, 0, 0.0)


# ------------------------------------------------------------------------------ options


def test_lengths(engine):
    full = ask(engine, ENGLISH[1])
    cut = ask(engine, ENGLISH[1], max_tokens=3)
    assert cut.num_tokens == 3 and cut.reason == "length" and len(cut.text) < len(full.text)
    exact = ask(engine, ENGLISH[1], max_tokens=full.num_tokens)  # with the end mark
    assert (exact.text, exact.reason, exact.num_tokens) == (full.text, "stop", full.num_tokens)
    for given in ({}, WILD | {"seed": 3}):
        longer = ask(engine, "no", min_tokens=50, **given)
        assert longer.num_tokens == 50 and longer.reason == "length"
    ends = ask(engine, "no", logit_bias={2: -100.0})  # the end mark
    assert (
        ends.reason == "length"
        and ends.num_tokens == int(1.5 * (ends.ticket.prompt_tokens + 1)) + 10
    )


def test_max_tokens_counts_all_lines(engine):
    one = ask(engine, ENGLISH[0])
    text = "\n".join([ENGLISH[0]] * 3)
    cut = ask(engine, text, max_tokens=one.num_tokens + 2)
    assert cut.reason == "length" and cut.num_tokens == one.num_tokens + 2
    assert cut.text.startswith(f"{one.text}\n") and cut.text.count("\n") == 1
    cut = ask(engine, text, max_tokens=one.num_tokens)
    assert cut.text == one.text and cut.reason == "length"


@pytest.mark.parametrize("given", [{}, WILD | {"seed": 4, "top_k": 2}])
def test_stop(engine, given):
    full = ask(engine, f"{ENGLISH[1]}\nno\nno", **given).text
    for stop in (full[4:7], full[-3:], "\n"):
        found = ask(engine, f"{ENGLISH[1]}\nno\nno", stop=("never", stop), **given)
        assert found.text == full[: full.index(stop)] and found.reason == "stop"


def test_bias_and_penalty(engine):
    plain = ask(engine, ENGLISH[0], logprobs=3)
    token = engine._translator.tgt_dict.index("▁кот")
    banned = ask(engine, ENGLISH[0], logit_bias={token: -100.0})
    assert "кот" in plain.text and "кот" not in banned.text
    forced = ask(engine, ENGLISH[0], logit_bias={token: 100.0})
    assert set(forced.text.split()) == {"кот"} and forced.reason == "length"
    both = {"logit_bias": {token: 8.0}, "max_tokens": 6}
    assert ask(engine, ENGLISH[0], **both).text.count("кот") > 1
    entries = [
        ask(engine, "no", min_tokens=20, logprobs=0, repetition_penalty=penalty).logprobs
        for penalty in (1.0, 30.0)
    ]
    repeating, other = (len({entry.data for entry in found}) for found in entries)
    assert repeating < other


def test_logprobs(engine):
    answer = ask(engine, f"{ENGLISH[0]}\nno", logprobs=2)
    entries = answer.logprobs
    assert len(entries) == answer.num_tokens - 2  # without the end marks
    assert b"".join(entry.data for entry in entries).decode().split()[:2] == ["кот", "убежал"]
    for entry in entries:
        assert entry.token == entry.data.decode(errors="replace") and len(entry.top) == 2
        assert entry.logprob <= entry.top[0][2] <= 0
    assert any(entry[:3] == entry.top[0] for entry in entries)
    wild = {"temperature": 1e6, "top_k": 2, "seed": 1, "logit_bias": {30: 50.0}}
    raw = ask(engine, "no", logprobs=1, **wild).logprobs
    assert min(entry.logprob for entry in raw) < -3  # before temperature, top-k and bias


REFUSED = [
    ("", {}, "prompt", "has no text"),
    ("\n \u200b\n", {}, "prompt", "has no text"),
    ((), {}, "prompt", "has no turns"),
    ("no \ud800", {}, "prompt", "surrogate"),
    (f"no\n{'no ' * 1100}", {}, "prompt", r"line 2 has \d+ tokens; the model reads at most 1023"),
    ("n" * 10**7, {}, "prompt", "line 1 has 10000000 characters"),
    ("\n" * 10**6, {}, "prompt", "needs more than 262144 tokens with its translation"),
    ("no \x00", {}, "prompt", "control character"),
    ("no", {"max_tokens": 5000}, "max_tokens", "5000: the model writes at most 1023"),
    ("no", {"min_tokens": 1024}, "min_tokens", "at most 1023"),
    ("no", {"logprobs": 0, "prompt_logprobs": True}, "prompt_logprobs", "echo .* predict its"),
    ("no", {"min_tokens": 5, "stop": ("x",)}, "min_tokens", "cannot be had with stop"),
    ("no\nno", {"min_tokens": 5}, "min_tokens", "needs a single line, and the prompt has 2"),
    ("no", {"logit_bias": {1: 1.0}}, "logit_bias", "never written"),
    ("no", {"logit_bias": {10**6: 1.0}}, "logit_bias", "the model has the tokens 0 to"),
    ("no", {"top_p": 0.0}, "top_p", "must be above 0"),
]


@pytest.mark.parametrize(
    ("prompt", "options", "param", "message"), REFUSED, ids=[str(n) for n in range(len(REFUSED))]
)
def test_bad_requests_are_refused(engine, prompt, options, param, message):
    with pytest.raises(RequestError, match=message) as caught:
        submit(engine, prompt, **options)
    assert caught.value.param == param and "\n" not in str(caught.value)


# ----------------------------------------------------- queue, cancelling, faults, closing


def test_what_never_fits_the_queue_is_refused_at_once(own):
    with pytest.raises(RequestError, match="needs more than 200 tokens") as caught:
        submit(own, "no\n" * 10**4)
    assert caught.value.param == "prompt"
    with pytest.raises(RequestError, match="needs more than 200 tokens"):
        submit(own, "no", min_tokens=300)


def test_a_full_queue_refuses(own):
    held = submit(own, "no", hold=True)
    assert held.held.wait(60)
    waiting = [submit(own, "no") for _ in range(3)]
    with pytest.raises(Overloaded, match="3 requests are waiting") as caught:
        submit(own, "no")
    assert 1 <= caught.value.retry_after <= 60
    for answer in waiting[1:]:
        answer.ticket.cancel()
    held.release()
    assert [answer.wait().reason for answer in waiting] == ["stop", "cancelled", "cancelled"]
    held = submit(own, "no", hold=True)
    assert held.held.wait(60)
    submit(own, "no no", min_tokens=160)
    with pytest.raises(
        Overloaded,
        match=r"requests of \d+ tokens are waiting, and this one has \d+; no more than 200",
    ):
        submit(own, "no no", min_tokens=40)
    held.release()


def test_a_cancelled_request_leaves_the_batch(engine, monkeypatch):
    steps = []
    decoder = engine._translator.model.decoder
    forward = decoder.forward
    monkeypatch.setattr(
        decoder,
        "forward",
        lambda tokens, *a, **k: steps.append(tokens.shape) or forward(tokens, *a, **k),
    )
    first = submit(engine, "no", min_tokens=1000, temperature=1.0)
    second = submit(engine, "no", min_tokens=900)
    while not steps:
        pass
    first.ticket.cancel()
    assert first.wait().reason == "cancelled" and first.text == ""
    other = submit(engine, "no")
    second.ticket.cancel()
    assert second.wait().reason == "cancelled"
    assert other.wait().text == ask(engine, "no").text
    assert len(steps) < 900
    first.ticket.cancel()  # harmless
    assert len(first.deltas) == 1


def test_others_of_the_batch_go_on(own):
    """A cancelled sentence in the middle of a batch does not shift the others."""
    plain = ask(own, "the dog ran", min_tokens=40).text
    held = submit(own, "no", hold=True)
    assert held.held.wait(60)
    first, second = (
        submit(own, text, min_tokens=n) for text, n in (("a cat", 60), ("the dog ran", 40))
    )
    begun = submit(own, "no")  # of the next batch
    held.release()
    first.ticket.cancel()
    assert second.wait().text == plain and first.wait().reason == "cancelled"
    assert begun.wait().reason == "stop"


def test_a_fault_ends_one_batch(engine, monkeypatch, caplog):
    decoder = engine._translator.model.decoder

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory on /secret/path")

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "forward", fail)
        answer = ask(engine, "no\nno")
    assert answer.reason == "error" and "failed; see the log" in answer.error
    assert "secret" not in answer.error and "out of memory" in caplog.text
    assert ask(engine, "no").reason == "stop" and engine.unhealthy() is None
    assert engine.stats()[:2] == (0, 0)


def test_a_receiver_that_fails_stops_nobody(engine):
    def fail(delta):
        raise RuntimeError("gone")

    from fairtale.serving.interface import GenerationRequest

    engine.submit(GenerationRequest("no"), fail)
    assert ask(engine, "no").reason == "stop" and engine.stats()[:2] == (0, 0)


def test_health(own, monkeypatch):
    assert own.unhealthy() is None
    monkeypatch.setattr(batch_engine, "STALL_SECONDS", 0.0)
    assert own.unhealthy() is None  # nothing is to be done
    held = submit(own, "no", hold=True)
    assert held.held.wait(60)
    assert "began 0 s ago and has not ended" in own.unhealthy()
    held.release()
    held.wait()
    own.close(1)
    assert "has ended" in own.unhealthy()


def test_closing_finishes_what_was_accepted(own):
    answers = [submit(own, "no", min_tokens=20) for _ in range(3)]
    own.close(60)
    assert {answer.wait().reason for answer in answers} == {"length"}
    with pytest.raises(ShuttingDown):
        submit(own, "no")
    own.close(0)  # harmless


def test_closing_does_not_wait_for_ever(path):
    engine = TranslationEngine(path, cpu=True, max_running=1)
    answers = [submit(engine, "no", min_tokens=1000) for _ in range(3)]
    engine.close(0)
    for answer in answers:
        assert answer.wait().reason == "error" and "shut down" in answer.error
        assert len(answer.deltas) == 1


# -------------------------------------------------------------------------------- loading


def test_other_architectures_and_fairseqs_own_task(data):
    for arch, task in (("transformer_hcg", "wmt16_translation"), ("transformer", "translation")):
        engine = TranslationEngine(write_checkpoint(data, arch, task, updates=40), cpu=True)
        assert "en-ru" in engine.describe()
        assert ask(engine, ENGLISH[3]).text == RUSSIAN[3]
        engine.close(0)


def test_an_unknown_tokenizer_is_refused(data, tmp_path):
    ours, theirs = (write_checkpoint(data, task=f"{name}translation") for name in ("wmt16_", ""))
    bare = shutil.copytree(data, tmp_path / "bare")
    for name in ("sentencepiece.bpe.model", "tokenizer.json"):
        (bare / name).unlink()
    message = r"bare has no tokenizer; put its sentencepiece.bpe.model there"
    with pytest.raises(UserError, match=message):
        TranslationEngine(theirs, data=str(bare), cpu=True)
    engine = TranslationEngine(ours, data=str(bare), cpu=True)  # the checkpoint knows where it is
    assert ask(engine, "no").reason in ("stop", "length")
    engine.close(0)
    moved = shutil.copytree(bare, tmp_path / "moved")
    (tmp_path / "gone").mkdir()
    model = (data / "sentencepiece.bpe.model").rename(tmp_path / "gone" / "x")
    try:
        with pytest.raises(UserError, match="its tokenizer .* does not exist; .* by --data"):
            TranslationEngine(ours, data=str(moved), cpu=True)
    finally:
        model.rename(data / "sentencepiece.bpe.model")


def test_bad_options_of_the_engine(path, tmp_path):
    for options, message in (
        ({"max_running": 0}, "max_running 0: must be at least 1"),
        ({"max_waiting_tokens": -5}, "max_waiting_tokens -5"),
        ({"beam": 0}, "--beam 0: must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            TranslationEngine(path, cpu=True, **options)
    (tmp_path / "bad.pt").write_bytes(b"PK" * 50)
    with pytest.raises(UserError, match="bad.pt"):
        TranslationEngine(str(tmp_path / "bad.pt"), cpu=True)

"""The engine of prefix language models: texts, ends, limits and failures."""

import threading
import time

import pytest
import torch

from fairtale.errors import UserError
from fairtale.serving import engine as engine_module
from fairtale.serving.engine import PrefixEngine
from fairtale.serving.interface import EngineStats, Limits, Overloaded, ShuttingDown
from tests.engine_helpers import PATIENCE, ask, dialog_session, story_session

GREEDY = {"temperature": 0}


class Gate:
    """Holds up the engine at the first part of a text, so that its batch does not move on."""

    def __init__(self):
        self.is_open, self.is_reached = threading.Event(), threading.Event()

    def __call__(self, answer):
        self.is_reached.set()
        assert self.is_open.wait(PATIENCE)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.is_open.set()


def until(condition):
    """Wait until a condition holds that another thread brings about soon."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---------------------------------------------------------------------------------- ends


def test_a_text_ends_at_its_maximum(engine):
    answer = ask(engine, "w1 w2", **GREEDY, max_tokens=5)
    assert answer.reason == "length" and answer.num_tokens == 5
    assert len(answer.text.split()) == 5 and answer.ticket.prompt_tokens == 2
    assert all(part.num_tokens == 1 for part in answer.parts)


def test_a_text_ends_at_the_last_position(engine):
    for prompt, room in (("", 63), ("w1 " * 60, 3), ("w1 " * 62, 1)):
        answer = ask(engine, prompt, **GREEDY, logit_bias={2: -100})
        assert answer.reason == "length" and answer.num_tokens == room


def test_an_end_mark_ends_a_text(engine):
    answer = ask(engine, "w1", **GREEDY, logit_bias={2: 100})
    assert (answer.text, answer.reason, answer.num_tokens) == ("", "stop", 1)
    answer = ask(engine, "w1", **GREEDY, logit_bias={2: 100}, min_tokens=3, logprobs=0)
    assert (answer.reason, answer.num_tokens) == ("stop", 4)
    assert len(answer.text.split()) == 3 == len(answer.logprobs)


def test_a_text_ends_before_its_stop_string(engine):
    whole = ask(engine, "w1 w2", **GREEDY, max_tokens=12).text
    words = whole.split()
    for number in (0, 4):
        stop = f"{words[number]} {words[number + 1]}"[1:]  # inside a word, and across two
        answer = ask(engine, "w1 w2", **GREEDY, max_tokens=12, stop=(stop, "nowhere"))
        assert answer.reason == "stop"
        assert answer.text == whole[: whole.index(stop)]
        assert whole.startswith(answer.text)
    # what only begins like a stop string is text, also at the end
    answer = ask(engine, "w1 w2", **GREEDY, max_tokens=12, stop=(words[-1] + " x",))
    assert (answer.text, answer.reason) == (whole, "length")


def test_a_stop_string_waits_for_the_minimum(engine):
    whole = ask(engine, "w1 w2", **GREEDY, max_tokens=12).text
    answer = ask(engine, "w1 w2", **GREEDY, max_tokens=12, min_tokens=6, stop=("w",))
    assert answer.reason == "stop" and answer.num_tokens == 6
    assert answer.text == " ".join(whole.split()[:5]) + " "


def test_a_stop_string_may_be_the_last_word(engine):
    whole = ask(engine, "w1 w2", **GREEDY, max_tokens=3).text
    answer = ask(engine, "w1 w2", **GREEDY, max_tokens=3, stop=(whole.split()[-1],))
    assert answer.reason in ("stop", "length") and whole.startswith(answer.text)


def test_no_space_stands_before_a_reply(make, tmp_path):
    session = dialog_session(tmp_path)
    session.task.decode_ids = lambda ids: "".join(f"  w{i}" for i in ids)
    engine = make(session)
    answer = ask(engine, ("w1",), **GREEDY, max_tokens=3, logit_bias={2: -100})
    assert answer.text.startswith("w") and answer.text.count("  w") == 2
    assert engine.kind == "dialog"


def test_characters_are_whole(make, session):
    letters = [b"\xd0", b"\xb6", b"\xed", b"\x95", b"\x9c", b"!"]
    session.task.decode_ids = lambda ids: b"".join(letters[i % 6] for i in ids).decode(
        errors="replace"
    )
    engine = make(session)
    bias = {i: 50.0 if i % 6 < 2 else -50.0 for i in range(4, 44)}
    answer = ask(engine, "w1", logit_bias=bias, seed=1, max_tokens=40)
    assert answer.text == session.task.decode_ids(answer.ticket.state.tokens)
    assert "\u0436" in answer.text and not answer.parts[0].text


# ------------------------------------------------------------------------------- batches


def test_requests_wait_for_a_place(engine, gate):
    first = ask(engine, "w1", gate, **GREEDY, max_tokens=4)
    assert gate.is_reached.wait(PATIENCE)
    others = [ask(engine, "w2", **GREEDY, max_tokens=6) for _ in range(6)]
    assert engine.stats().waiting == 6
    gate.is_open.set()
    assert len({answer.text for answer in others}) == 1 and first.reason == "length"
    until(lambda: engine.stats() == EngineStats(0, 0, 0.0))


def test_the_cache_is_filled_as_texts_grow(engine, gate):
    ask(engine, "w1 " * 20, gate, **GREEDY, max_tokens=2)
    assert gate.is_reached.wait(PATIENCE)
    assert engine.stats() == EngineStats(1, 0, 21 / (4 * 64))


def test_prompts_of_a_step_are_bounded(make, session, monkeypatch):
    monkeypatch.setattr(engine_module, "READ_TOKENS", 32)
    engine, reads = make(session, max_running=8), []
    read = engine._decoder.read

    def watched(pieces):
        reads.append([len(piece.tokens) for piece in pieces])
        return read(pieces)

    engine._decoder.read = watched
    gate = Gate()
    ask(engine, "w1", gate, **GREEDY, max_tokens=9)
    assert gate.is_reached.wait(PATIENCE)
    answers = [ask(engine, "w3 " * n, **GREEDY, max_tokens=4) for n in (9, 9, 9, 9, 50, 3)]
    gate.is_open.set()
    assert [answer.num_tokens for answer in answers] == [4] * 6
    assert reads == [[2], [10, 10, 10], [10], [32], [19, 4]]


# ---------------------------------------------------------------------------- cancelling


def test_a_cancelled_text_frees_its_place(engine, gate):
    running = ask(engine, "w1", gate, **GREEDY)
    assert gate.is_reached.wait(PATIENCE)
    queued = ask(engine, "w2", **GREEDY)
    running.ticket.cancel()
    queued.ticket.cancel()
    gate.is_open.set()
    assert (running.reason, queued.reason) == ("cancelled", "cancelled")
    assert len(running.parts) == 2 and queued.num_tokens == 0
    until(lambda: engine.stats().running == 0)
    running.ticket.cancel()  # harmless
    assert ask(engine, "w1", **GREEDY, max_tokens=3).num_tokens == 3
    assert len(running.parts) == 2


def test_a_text_cancels_itself_in_mid_flight(engine):
    def on_part(answer):
        if len(answer.parts) == 3:
            answer.ticket.cancel()

    neighbour = ask(engine, "w3", **GREEDY, max_tokens=30)
    gone = [ask(engine, "w1", on_part, max_tokens=30, seed=i, min_tokens=30) for i in range(3)]
    assert [answer.reason for answer in gone] == ["cancelled"] * 3
    assert [answer.num_tokens for answer in gone] == [3] * 3
    assert neighbour.text == ask(engine, "w3", **GREEDY, max_tokens=30).text


# -------------------------------------------------------------------------------- limits


def test_limits(engine, make, tmp_path):
    assert engine.limits == Limits(62, 63, 63, 4, 6, 262144) and engine.kind == "story"
    dialog = make(dialog_session(tmp_path), max_running=3)
    assert dialog.limits == Limits(39, 19, 58, 3, 256, 262144)
    assert "3 rows of 64 positions" in dialog.describe() and "MiB" in dialog.describe()
    assert dialog.describe().startswith("cpu, float32, ")


def test_the_budget_gives_the_number_of_rows(make, tmp_path):
    session = story_session(tmp_path, 512, embed_dim=64)  # 512 x 64 x 2 x 2 x 4 bytes a row
    assert make(session, cache_mib=2).limits.max_running == 4
    assert make(session).limits.max_running == 64
    large = story_session(tmp_path, 4096, embed_dim=128, num_layers=3)
    with pytest.raises(UserError, match="cache_mib 5.* 4096 positions need 12.0 MiB: raise it"):
        PrefixEngine(large, cache_mib=5)
    with pytest.raises(UserError, match="max_running 0: must be at least 1"):
        PrefixEngine(session, max_running=0)


def test_a_full_queue_refuses(engine, gate):
    ask(engine, "w1", gate, **GREEDY)
    assert gate.is_reached.wait(PATIENCE)
    waiting = [ask(engine, "w2", **GREEDY, max_tokens=2) for _ in range(6)]
    with pytest.raises(Overloaded, match="6 requests are waiting, and no more than 6") as full:
        ask(engine, "w2", **GREEDY)
    assert 1 <= full.value.retry_after <= 120
    gate.is_open.set()
    assert [answer.num_tokens for answer in waiting] == [2] * 6


def test_a_queue_is_full_of_tokens(make, session, gate):
    engine = make(session, max_waiting_tokens=60)
    ask(engine, "w1", gate, **GREEDY)
    assert gate.is_reached.wait(PATIENCE)
    large = ask(engine, "w2 " * 30, **GREEDY, max_tokens=30)  # alone, it may have more
    with pytest.raises(Overloaded, match="requests of 61 tokens are waiting, and this one has 4"):
        ask(engine, "w2", **GREEDY, max_tokens=2)
    gate.is_open.set()
    assert large.num_tokens == 30


# ------------------------------------------------------------------------------ failures


def test_a_prompt_that_fails_ends_alone(engine):
    read = engine._decoder.read

    def failing(pieces):
        if any(len(piece.tokens) == 8 for piece in pieces):
            raise RuntimeError("out of memory\nand more")
        return read(pieces)

    engine._decoder.read = failing
    expected = ask(engine, "w3", **GREEDY, max_tokens=20).text

    def on_part(answer):
        if len(answer.parts) == 2:
            failed.append(ask(engine, "w1 " * 7, **GREEDY))

    failed = []
    running = ask(engine, "w3", on_part, **GREEDY, max_tokens=20)
    assert running.text == expected
    last = failed[0].last
    assert last.finish_reason == "error"
    assert last.error == "the text could not be generated: RuntimeError: out of memory"
    assert engine.unhealthy() is None


@pytest.mark.parametrize("part", ["step", "logits"])
def test_a_failed_step_ends_its_texts_only(engine, part):
    expected = ask(engine, "w5 w6", **GREEDY, max_tokens=9).text
    working = getattr(engine._decoder, part)
    fail, later = threading.Event(), []

    def failing(*args):
        if fail.is_set():
            fail.clear()
            raise MemoryError
        return working(*args)

    setattr(engine._decoder, part, failing)

    def on_part(answer):
        if len(answer.parts) == 1:
            fail.set()
            later.append(ask(engine, "w5 w6", **GREEDY, max_tokens=9))

    first = ask(engine, "w1", on_part, **GREEDY)
    assert first.last.error == "the text could not be generated: MemoryError"
    if part == "step":  # its prompt was read in the step that failed for the other
        assert later[0].text == expected
    assert ask(engine, "w5 w6", **GREEDY, max_tokens=9).text == expected


def test_many_failures_are_unhealthy_until_a_step_succeeds(engine):
    read = engine._decoder.read

    def failing(pieces):
        raise RuntimeError("no kernel image")

    engine._decoder.read = failing
    for _ in range(3):
        assert ask(engine, "w1", **GREEDY).reason == "error"
    until(lambda: engine.unhealthy() == "the last 3 steps failed: RuntimeError: no kernel image")
    engine._decoder.read = read
    assert ask(engine, "w1", **GREEDY, max_tokens=2).num_tokens == 2
    until(lambda: engine.unhealthy() is None)


def test_a_damaged_row_harms_no_later_text(engine, session):
    expected = ask(engine, "w3", **GREEDY, max_tokens=8).text
    weight = session.model.transformer.embed_tokens.weight.data
    good = weight[4].clone()
    weight[4] = torch.nan
    assert "output is not a number" in ask(engine, "w0", **GREEDY).last.error
    weight[4] = good
    for _ in range(3):
        assert ask(engine, "w3", **GREEDY, max_tokens=8).text == expected


def test_whoever_cannot_take_a_text_is_cancelled(engine):
    def on_part(answer):
        raise ValueError("gone")

    ask(engine, "w1", on_part, **GREEDY)
    assert ask(engine, "w1", **GREEDY, max_tokens=3).num_tokens == 3
    until(lambda: engine.stats().running == 0)


def test_a_step_that_hangs_is_unhealthy(make, session, gate):
    engine = make(session, hang_seconds=0.05)
    assert engine.unhealthy() is None
    answer = ask(engine, "w1", gate, **GREEDY, max_tokens=2)
    assert gate.is_reached.wait(PATIENCE)
    until(lambda: "s ago and has not ended" in (engine.unhealthy() or ""))
    gate.is_open.set()
    assert answer.num_tokens == 2
    until(lambda: engine.unhealthy() is None)


def test_a_dead_thread_is_unhealthy(engine, monkeypatch):
    def dying():
        raise SystemError("bad")

    monkeypatch.setattr(engine, "_advance", dying)
    assert ask(engine, "w1", **GREEDY).last.error.endswith("has ended: SystemError: bad")
    assert engine.unhealthy() == "the engine's thread has ended: SystemError: bad"
    until(lambda: not engine._thread.is_alive())
    with pytest.raises(ShuttingDown, match="not available: the engine's thread has ended"):
        ask(engine, "w1")


# ------------------------------------------------------------------------------- closing


def test_closing_finishes_what_runs_and_waits(engine):
    answers = [ask(engine, "w1", **GREEDY, max_tokens=9) for _ in range(6)]
    engine.close(PATIENCE)
    assert [answer.num_tokens for answer in answers] == [9] * 6
    with pytest.raises(ShuttingDown, match="accepts no more requests"):
        ask(engine, "w1")
    engine.close(1)


def test_after_the_grace_requests_end(engine, gate):
    running = ask(engine, "w1", gate, **GREEDY)
    assert gate.is_reached.wait(PATIENCE)
    queued = ask(engine, "w2", **GREEDY)
    closing = threading.Thread(target=engine.close, args=(0,))
    closing.start()
    until(lambda: engine._is_aborted)
    gate.is_open.set()
    closing.join(PATIENCE)
    assert running.last.error == queued.last.error == "the service is shutting down"
    assert not engine._thread.is_alive()

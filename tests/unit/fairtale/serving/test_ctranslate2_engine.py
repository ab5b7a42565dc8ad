"""Texts of CTranslate2: as the library's own, streamed, cancelled, and refused by name."""

import json
import shutil

import pytest

from fairtale.errors import UserError
from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session
from fairtale.interop import gpt2_import
from fairtale.interop.ctranslate2_export import export_ctranslate2
from fairtale.serving.ctranslate2_engine import CTranslate2Engine
from fairtale.serving.interface import RequestError, ShuttingDown
from tests.engine_answers import ask, submit
from tests.gpt2_helpers import TEXT, change_json, run_import, train_byte_level, write_folder

pytest.importorskip("ctranslate2", reason="needs the extra ctranslate2")

POSITIONS = 48
PROMPTS = ["Once upon", "", "A hen, a hen; 12 hens!", "Жила", "курица, и 猫", "a"]
OURS = ("<s>", "<pad>", "</s>", "<unk>")  # of tokenizers that are trained here


@pytest.fixture(scope="module", params=["gpt2", "ours"])
def model(request, tmp_path_factory):
    """A checkpoint with its export; special tokens as in GPT-2, or as in models trained here."""
    folder = tmp_path_factory.mktemp("model")
    options = {"n_positions": POSITIONS}
    if request.param == "ours":
        options["tokenizer"] = train_byte_level(first=OURS, last=())
        options |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2_import, "can_compare", lambda: False)
        run_import(write_folder(folder / "hf", **options), folder / "model")
    list(
        export_ctranslate2(str(folder / "model" / "checkpoint.pt"), str(folder / "ct2"), None, None)
    )
    return folder


@pytest.fixture(scope="module")
def engine(model):
    made = CTranslate2Engine(str(model / "ct2"), cpu=True, max_running=4)
    yield made
    made.close(0)


@pytest.fixture(scope="module")
def session(model):
    return Session.load(str(model / "model" / "checkpoint.pt"), cpu=True)


# ----------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("count", [1, 9, None])
def test_greedy_texts_are_those_of_a_session(engine, session, count):
    assert engine.kind == "story" and "CTranslate2 on cpu, float32" in engine.describe()
    assert engine.limits.max_new_tokens == session.limits.max_new_tokens == POSITIONS - 1
    assert engine.limits.max_prompt_tokens == session.limits.max_prompt_tokens
    greedy = DecodingOptions(sampling_topk=1, max_len_b=POSITIONS if count is None else count)
    answers = [submit(engine, prompt, max_tokens=count) for prompt in PROMPTS]
    texts = [answer.wait().text for answer in answers]
    assert texts == [session.continue_text(prompt, greedy) for prompt in PROMPTS]
    for answer in answers:
        room = POSITIONS - 1 - answer.ticket.prompt_tokens
        assert answer.num_tokens == (room if count is None else count) or answer.reason == "stop"
    assert any(answer.reason == "length" for answer in answers)


def test_an_end_and_a_minimum(engine, session, monkeypatch):
    """The most probable token serves as the end of the text."""
    plain = ask(engine, "a", max_tokens=8, logprobs=0)
    monkeypatch.setattr(engine, "_eos", engine._vocabulary.index(_pieces(engine, plain)[0]))
    answer = ask(engine, "a", max_tokens=8)
    assert (answer.text, answer.num_tokens, answer.reason) == ("", 1, "stop")


def _pieces(engine, answer):
    by_bytes = {}
    for token, piece in enumerate(engine._vocabulary):
        from fairtale.data.corpus.byte_level import piece_bytes

        by_bytes.setdefault(piece_bytes(piece), engine._vocabulary[token])
    return [by_bytes[entry.data] for entry in answer.logprobs]


def test_characters_are_whole_and_logprobs_are_raw(engine):
    texts = []
    for _ in range(6):
        given = {"temperature": 3.0, "top_k": 50, "max_tokens": 30, "logprobs": 0}
        answer = ask(engine, "Жила", **given)
        data = b"".join(entry.data for entry in answer.logprobs)
        assert answer.text == data.decode(errors="replace")
        assert len(answer.logprobs) == answer.num_tokens - (answer.reason == "stop")
        assert all(entry.logprob < 0 and entry.top == () for entry in answer.logprobs)
        texts.append(answer.text)
    assert len(set(texts)) > 1  # without a seed, each text is another one
    greedy = ask(engine, "Жила", max_tokens=30).text
    assert ask(engine, "Жила", max_tokens=30, temperature=2.0, top_k=1).text == greedy
    assert ask(engine, "Жила", max_tokens=30, temperature=1e-4, top_p=0.5).text == greedy


def test_stop(engine):
    full = ask(engine, "A hen", max_tokens=12).text
    stop = full[3:5]
    found = ask(engine, "A hen", max_tokens=12, stop=(stop, "never"))
    assert found.text == full[: full.index(stop)] and found.reason == "stop"
    assert found.num_tokens < 12
    late = ask(engine, "A hen", max_tokens=12, stop=(stop,), min_tokens=12)
    assert late.text.startswith(full[: full.index(stop) + 2])


# -------------------------------------------------------------------- what is not possible


@pytest.mark.parametrize(
    ("prompt", "options", "param", "message"),
    [
        ("a", {"temperature": 1.0, "seed": 3}, "seed", "seed 3: CTranslate2 has one seed"),
        ("a", {"repetition_penalty": 1.1}, "repetition_penalty", "tokens of the prompt; leave"),
        ("a", {"logit_bias": {3: 1.0}}, "logit_bias", "no such option"),
        ("a", {"logprobs": 2}, "logprobs", "chosen tokens only; give 0"),
        ("a", {"top_p": 2.0}, "top_p", "at most 1"),
        (
            "a",
            {"logprobs": 0, "prompt_logprobs": True},
            "prompt_logprobs",
            "echo with logprobs: CT",
        ),
        ("a", {"max_tokens": POSITIONS}, "max_tokens", "at most 46 .* 47 positions, .* takes 1"),
        ("a", {"min_tokens": POSITIONS}, "min_tokens", "lower min_tokens or shorten"),
        ("a b" * 40, {}, "prompt", "has 47 positions, and the prompt takes .* shorten it"),
        ("a" * 10**7, {}, "prompt", "prompt of 10000000 bytes"),
        ("a\ud800", {}, "prompt", "surrogate"),
        (("a", "b"), {}, "prompt", "send no turns"),
    ],
)
def test_refused(engine, prompt, options, param, message):
    with pytest.raises(RequestError, match=message) as caught:
        submit(engine, prompt, **options)
    assert caught.value.param == param and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model.bin").unlink(), "model.bin is missing; write the folder"),
        (lambda path: (path / "config.json").write_text("{"), "config.json: Expecting"),
        (
            lambda path: change_json(path / "config.json", ["max_positions"]),
            "not say max_positions",
        ),
        (lambda path: change_json(path / "config.json", max_positions="9"), "is damaged"),
        (lambda path: change_json(path / "config.json", eos_token="?!"), "is damaged"),
        (lambda path: (path / "vocabulary.json").write_text("{}"), "has another form"),
        (lambda path: (path / "model.bin").write_bytes(b"no"), "CTranslate2 cannot load it"),
        (lambda path: (path / "tokenizer.json").unlink(), "no such tokenizer"),
    ],
)
def test_damaged_folders(model, tmp_path, damage, message):
    folder = shutil.copytree(model / "ct2", tmp_path / "copy")
    damage(folder)
    with pytest.raises(UserError, match=message):
        CTranslate2Engine(str(folder), cpu=True)


def test_a_foreign_tokenizer(model, tmp_path):
    train_byte_level(num_merges=26, last=("<|endoftext|>",)).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="pieces that the model lacks"):
        CTranslate2Engine(str(model / "ct2"), data=str(tmp_path), cpu=True)


# ------------------------------------------------------------------------- cancel and close


def test_cancelling_and_closing(model):
    engine = CTranslate2Engine(str(model / "ct2"), cpu=True, max_running=2)
    held = submit(engine, "a", hold=True)
    assert held.held.wait(60)
    assert engine.stats()[:2] == (1, 0)
    other, waits, goes_on = (submit(engine, "a") for _ in range(3))
    other.ticket.cancel()
    held.ticket.cancel()
    held.release()
    assert held.wait().reason == other.wait().reason == "cancelled"
    assert held.num_tokens == 1 and other.num_tokens == 0
    assert waits.wait().text == goes_on.wait().text != ""
    held = submit(engine, "a", hold=True)
    assert held.held.wait(60)
    left = submit(engine, "a")
    engine._deadline = 0.0  # as close(0) sets it
    held.release()
    engine.close(0)
    assert held.wait().reason == left.wait().reason == "error" and "shut down" in left.error
    with pytest.raises(ShuttingDown):
        submit(engine, "a")
    assert "has ended" in engine.unhealthy()


def test_a_cancelled_text_leaves_the_others_alone(engine):
    plain = [ask(engine, prompt).text for prompt in PROMPTS[:3]]
    held = submit(engine, "a", hold=True, temperature=0.5)
    assert held.held.wait(60)
    answers = [submit(engine, prompt, hold=prompt == "") for prompt in PROMPTS[:3]]
    held.release()
    assert answers[1].held.wait(60)
    answers[1].ticket.cancel()
    answers[1].release()
    assert [answers[0].wait().text, answers[2].wait().text] == [plain[0], plain[2]]
    assert answers[1].wait().reason == "cancelled" and plain[1].startswith(answers[1].text)


def test_the_export_says_what_the_service_needs(model):
    config = json.loads((model / "ct2" / "config.json").read_text())
    assert config["max_positions"] == POSITIONS
    ours = config["bos_token"] == "<s>"
    assert config["never_written"] == (["<s>", "<pad>"] if ours else [])
    assert TEXT  # the tokenizer was trained on it

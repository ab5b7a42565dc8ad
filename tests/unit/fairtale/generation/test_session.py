"""Sessions: continuations of stories and replies to dialogs."""

import dataclasses
import subprocess
import sys
from itertools import zip_longest

import pytest
import torch
from fairseq import checkpoint_utils

from fairtale.errors import UserError
from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session
from fairtale.generation.writers import Kind
from tests.dialog_helpers import dialog_dictionary, dialog_model, dialog_task
from tests.helpers import tiny_dictionary, tiny_model, tiny_task
from user_dir.models.gpt import GPTConfig
from user_dir.models.mask_predict import MaskPredictModel
from user_dir.tasks.dialog_nat import DialogNATConfig, DialogNATTask

POSITIONS = 16
GREEDY = DecodingOptions(sampling_topk=1, max_len_b=12)
WILD = DecodingOptions(temperature=5.0, sampling_topk=-1, min_len=8, max_len_b=12, seed=1)


@pytest.fixture
def story(tmp_path):
    dictionary = tiny_dictionary()
    task = tiny_task(dictionary, POSITIONS, data=str(tmp_path))
    return Session(task, tiny_model(dictionary, POSITIONS, seed=3))


@pytest.fixture
def dialog(tmp_path):
    dictionary = dialog_dictionary()
    task = dialog_task(dictionary, data=str(tmp_path), seed=1, tensorboard_logdir=None)
    task._options["seq2seq_prob"] = 1.0
    model = dialog_model(dictionary, seed=3)
    with (
        torch.no_grad()
    ):  # fairseq may sample the BOS token, and removes it from the text afterwards
        model.transformer.embed_tokens.weight[dictionary.bos()] = 0
    return Session(task, model)


# ------------------------------------------------------------------------- what is written


def test_a_story_is_continued_as_by_fairseq(story):
    for prompt in ("w1 w2 w3", "", "w9"):
        (expected,), speed = story.continue_batch([prompt], GREEDY)
        assert story.continue_text(prompt, GREEDY) == expected != ""
        assert speed > 0


def test_a_dialog_is_answered_as_by_fairseq(dialog):
    for turns in (["w1 w2 w3"], ["w1", "w2 w3", "w4"]):
        (expected,), _ = dialog.continue_batch(["\t".join(turns)], GREEDY)
        assert dialog.reply(turns, GREEDY) == expected != ""
    assert dialog.reply("w1 w2 w3", GREEDY) == dialog.reply(["w1 w2 w3"], GREEDY)


def test_the_parts_are_the_text(story, dialog):
    parts = list(story.stream("w1", WILD))
    assert len(parts) >= 8 and "".join(parts) == story.continue_text("w1", WILD)
    assert "".join(dialog.stream(["w1"], WILD)) == dialog.reply(["w1"], WILD)


def test_no_space_stands_before_a_reply(dialog):
    dialog.task.decode_ids = lambda ids: "".join(f"  w{i}" for i in ids)
    parts = list(dialog.stream(["w1"], WILD))
    assert parts[0].startswith("w") and all(part.startswith("  w") for part in parts[1:])


def test_a_text_holds_no_marks(story, dialog):
    for session, request in ((story, "w1"), (dialog, ["w1"])):
        for seed in range(20):
            text = "".join(session.stream(request, dataclasses.replace(WILD, seed=seed)))
            assert not {"<s>", "<pad>", "</s>", "<CTX>", "<SEP>"} & set(text.split())


# --------------------------------------------------------------- requests after each other


def test_each_request_has_its_own_options(story):
    first = story.continue_text("w1", WILD)
    assert story.continue_text("w1", GREEDY) != first
    assert story.continue_text("w1", dataclasses.replace(WILD, seed=2)) != first
    assert story.continue_text("w1", WILD) == first
    free = dataclasses.replace(WILD, seed=None)
    assert len({story.continue_text("w1", free) for _ in range(5)}) == 5
    short = dataclasses.replace(WILD, min_len=0, max_len_b=3)
    assert len(story.continue_text("w1", short).split()) <= 3


def test_requests_may_draw_from_one_generator_in_turn(dialog):
    def two_replies(seed):
        generator = dialog.new_generator(seed)
        return [dialog.reply(["w1"], WILD, generator) for _ in range(2)]

    first = two_replies(1)
    assert first[0] != first[1] and two_replies(1) == first
    assert first[0] == dialog.reply(["w1"], WILD) and two_replies(2) != first


def test_open_streams_do_not_mix(story):
    requests = [("w1 w2", 1), ("w3", 2), ("", 3)]
    options = [dataclasses.replace(WILD, seed=seed) for _, seed in requests]
    alone = [list(story.stream(r, o)) for (r, _), o in zip(requests, options)]
    streams = [story.stream(r, o) for (r, _), o in zip(requests, options)]
    together = list(zip_longest(*streams))  # take a part of each stream alternately
    assert [[p for p in column if p is not None] for column in zip(*together)] == alone


def test_no_ngram_of_the_context_is_repeated(story, dialog):
    options = dataclasses.replace(WILD, block_context_ngram=1)
    words = {"w1", "w2", "w3", "w4", "w5"}
    for session, request in ((story, "w1 w2 w3 w4 w5"), (dialog, ["w1 w2 w3", "w4 w5"])):
        found = [
            set("".join(session.stream(request, dataclasses.replace(o, seed=seed))).split())
            for o in (WILD, options)
            for seed in range(5)
        ]
        assert any(words & text for text in found[:5])
        assert not any(words & text for text in found[5:])


def test_the_tasks_processors_come_after_those_of_the_request(dialog, monkeypatch):
    calls = []

    def task_processor(lprobs, tokens, prefix):
        calls.append(torch.isinf(lprobs).sum().item())  # blocked by the request's processor
        return lprobs

    monkeypatch.setattr(dialog.task, "reply_processors", lambda: [task_processor])
    blocking = dataclasses.replace(GREEDY, block_context_ngram=1)
    dialog.reply(["w1 w2 w3"], dataclasses.replace(blocking, block_context_ngram=0))
    before = calls[-1]
    dialog.reply(["w1 w2 w3"], blocking)
    assert calls[-1] > before


# --------------------------------------------------------------------------------- limits


def test_a_request_is_refused_before_its_first_part(story, dialog):
    with pytest.raises(UserError, match="empty"):
        dialog.stream([""], GREEDY)
    with pytest.raises(UserError, match="--max-len-b 20: .* replies of at most 19 tokens"):
        dialog.stream(["w1"], DecodingOptions(max_len_b=20))
    with pytest.raises(UserError, match="a prompt of 15 tokens leaves room for 0 .* 16 positions"):
        story.stream("w1 " * 15, GREEDY)
    with pytest.raises(TypeError, match="a story continues a str, not a list"):
        story.stream(["w1"], GREEDY)


def test_a_story_ends_with_the_positions(story):
    limits = story.limits
    assert (limits.max_prompt_tokens, limits.max_new_tokens) == (14, 15)
    for length in (0, 5, limits.max_prompt_tokens):
        room = limits.max_new_tokens - length
        options = DecodingOptions(min_len=room, max_len_b=99, sampling_topk=-1, seed=1)
        assert len(story.continue_text("w1 " * length, options).split()) == room
        with pytest.raises(UserError, match=f"room for {room} .* --min-len requires {room + 1}"):
            story.stream("w1 " * length, dataclasses.replace(options, min_len=room + 1))


def test_replies_are_no_longer_than_what_was_learned(dialog):
    assert dialog.limits.max_new_tokens == 19 and dialog.limits.max_prompt_tokens == 39
    for least in (1, 19):
        endless = DecodingOptions(min_len=least, sampling_topk=-1, temperature=9.0, seed=1)
        lengths = [
            len(dialog.reply(["w1"], dataclasses.replace(endless, seed=seed)).split())
            for seed in range(9)
        ]
        assert max(lengths) <= 19  # the default is 60
    assert max(lengths) == 19
    dialog.check(DecodingOptions(max_len_b=19, min_len=19))
    for wrong, told in (({"max_len_b": 20}, "--max-len-b 20"), ({"min_len": 20}, "--min-len 20")):
        with pytest.raises(
            UserError, match=f"{told}: the model was trained on replies of at most 19"
        ):
            dialog.check(DecodingOptions(**wrong))


# ------------------------------------------------------------------------- several at once


def test_a_batch_with_a_seed_leaves_no_trace(story):
    story.model.train()
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = story.continue_batch(["w1", "w2 w3"], WILD).texts
    assert torch.equal(torch.rand(4), expected) and story.model.training
    assert story.continue_batch(["w1", "w2 w3"], WILD).texts == first


def test_a_batch_without_a_seed_draws_from_torchs_generator(story):
    free = dataclasses.replace(WILD, seed=None)
    torch.manual_seed(1)
    first = story.continue_batch(["w1"], free).texts
    assert first == story.continue_batch(["w1"], WILD).texts
    assert story.continue_batch(["w1"], free).texts != first


# --------------------------------------------------------------------------------- loading


def save_checkpoint(session, folder, **options):
    """Write the parts of a fairseq checkpoint that loading needs; return its path."""
    session.task.dictionary.save(str(folder / "dict.txt"))
    model = GPTConfig(
        decoder_embed_dim=16,
        decoder_ffn_embed_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        max_target_positions=session.model.max_decoder_positions(),
    )
    names = {Kind.STORY: "gpt", Kind.DIALOG: "unilm_seq2seq"}
    cfg = {
        "task": {**vars(session.task.cfg), "_name": session.kind.value, **options},
        "model": {**vars(model), "activation_fn": "gelu_accurate", "_name": names[session.kind]},
    }
    state = {
        "args": None,
        "cfg": cfg,
        "model": session.model.state_dict(),
        "task_state": session.task.state_dict(),
        "optimizer_history": [
            {
                "num_updates": 1,
                "criterion_name": "CrossEntropyCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
            }
        ],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    torch.save(state, folder / "checkpoint.pt")
    return str(folder / "checkpoint.pt")


@pytest.mark.parametrize("kind", list(Kind))
def test_a_checkpoint_writes_what_its_model_wrote(kind, story, dialog, tmp_path):
    before = {Kind.STORY: story, Kind.DIALOG: dialog}[kind]
    path = save_checkpoint(before, tmp_path, data="where it was trained")
    session = Session.load(path, data=str(tmp_path), cpu=True)
    assert session.kind == before.kind == kind and session.device.type == "cpu"
    assert session.limits == before.limits and not session.model.training
    assert list(session.stream("w1 w2", WILD)) == list(before.stream("w1 w2", WILD))


def test_what_the_training_was_told_of_generation_does_not_count(dialog, tmp_path):
    words = tmp_path / "words"
    told = {"block_context_ngram": 1, "steer_words": "missing", "steer_weight": 9.0}
    path = save_checkpoint(dialog, tmp_path, **told)
    session = Session.load(path, cpu=True)
    assert session.reply(["w1 w2"], WILD) == dialog.reply(["w1 w2"], WILD)
    with pytest.raises(UserError, match="--steer-words .*words"):  # when loading, not in a request
        Session.load(path, cpu=True, overrides={"steer_words": str(words)})
    words.write_text("w7\n")
    steer = {"steer_words": str(words), "steer_weight": 50.0}
    session = Session.load(path, cpu=True, overrides=steer)
    assert "w7" in session.reply(["w1 w2"], WILD).split()


def test_other_kinds_are_refused(story, tmp_path):
    path = save_checkpoint(story, tmp_path)
    with pytest.raises(UserError, match=f"^{path}: trained with StoryLMTask, not dialog_lm$"):
        Session.load(path, cpu=True, kinds=[Kind.DIALOG])


def test_a_model_that_continues_nothing_is_refused(monkeypatch):
    dictionary = dialog_dictionary()
    task = DialogNATTask(DialogNATConfig(max_target_positions=20), dictionary)
    model = MaskPredictModel(dictionary, dialog_model(dictionary).transformer)
    monkeypatch.setattr(
        checkpoint_utils, "load_model_ensemble_and_task", lambda *args: ([model], None, task)
    )
    with pytest.raises(UserError, match="with DialogNATTask, not dialog_lm or story_lm$"):
        Session.load("nat.pt", cpu=True)


def test_importing_sessions_does_not_import_fairseq():
    code = "import sys, fairtale.generation.session; print('fairseq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_a_batch_refuses_an_option_that_it_would_ignore(story):
    with pytest.raises(UserError, match="--block-context-ngram 2: prompts of a batch are not"):
        story.continue_batch(["w1 w2"], dataclasses.replace(GREEDY, block_context_ngram=2))

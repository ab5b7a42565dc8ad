"""``story_lm``: which data it takes, what it remembers, how stories become prompts."""

import logging
from argparse import Namespace

import numpy as np
import pytest
import torch

from fairtale.data.corpus.vocabulary import TOKENIZER_FILE
from fairtale.data.story.dataset import PromptDataset
from fairtale.errors import UserError
from tests.helpers import (
    dictionary_of,
    random_rows,
    tiny_dictionary,
    tiny_model,
    tiny_task,
    train_tokenizer,
    write_split,
)
from user_dir.tasks.story_lm import StoryLMConfig, StoryLMTask

BEGIN, PAD, END = 0, 1, 2
TEXTS = ["the cat ran to the cat", "a cat and a dog", "the dog ran"]


def data_folder(path, dictionary, **splits):
    path.mkdir(exist_ok=True)
    dictionary.save(str(path / "dict.txt"))
    for split, rows in splits.items():
        write_split(path, split, rows, len(dictionary))
    return path


def setup(*folders, **options):
    data = ":".join(map(str, folders))
    options.setdefault("tensorboard_logdir", None)
    return StoryLMTask.setup_task(StoryLMConfig(data=data, **options))


def story_batch(task, rows):
    """Return a batch of stories as ``fairseq-generate`` reads it."""
    from fairtale.data.corpus.vocabulary import token_bytes
    from fairtale.data.story.dataset import StoryDataset

    stories = [torch.cat([torch.tensor(r), torch.tensor([END])]) for r in rows]
    dataset = StoryDataset(
        stories,
        [len(s) for s in stories],
        task.dictionary,
        task.tokens_per_sample,
        token_bytes(task.dictionary),
        pack=task.cfg.pack,
    )
    return dataset.collater([dataset[i] for i in range(len(rows))])


# ---------------------------------------------------------------------------------- data


def test_several_folders_are_one_set(tmp_path):
    dictionary = tiny_dictionary()
    rows = random_rows([3, 5, 2, 7, 4])
    a = data_folder(tmp_path / "a", dictionary, train=rows[:2], valid=rows[:1])
    b = data_folder(tmp_path / "b", dictionary, train=rows[2:])
    task = setup(a, b)
    task.load_dataset("train", combine=False, epoch=1)
    dataset = task.dataset("train")
    assert len(dataset) == 5 and not task.has_sharded_data("train")
    assert dataset.sizes.tolist() == [4, 6, 3, 8, 5]
    for row, i in zip(rows, range(5)):
        assert dataset[i]["target"].tolist() == [*row.tolist(), END]
    iterator = task.get_batch_iterator(dataset, max_tokens=16, required_batch_size_multiple=8)
    found = [n for batch in iterator.next_epoch_itr() for n in batch["id"].tolist()]
    assert sorted(found) == [0, 1, 2, 3, 4]
    task.load_dataset("valid")  # one folder has it
    assert len(task.dataset("valid")) == 1
    assert dataset.shuffle and not task.dataset("valid").shuffle
    with pytest.raises(UserError, match="split test not found in .*a:.*b"):
        task.load_dataset("test")


def test_folders_with_different_dictionaries_are_refused(tmp_path):
    a = data_folder(tmp_path / "a", tiny_dictionary(5))
    longer = data_folder(tmp_path / "b", tiny_dictionary(6))
    shuffled = tiny_dictionary(0)
    for i in (1, 0, 2, 3, 4):
        shuffled.add_symbol(f"w{i}")
    other = data_folder(tmp_path / "c", shuffled)
    assert len(setup(a, a).dictionary) == 9
    for folder in (longer, other):
        with pytest.raises(UserError, match=f"{folder}/dict.txt differs"):
            setup(a, folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(data=None), "no data folder given"),
        (dict(data="/nowhere/at/all"), "/nowhere/at/all/dict.txt does not exist"),
    ],
)
def test_missing_data_is_named(options, words):
    with pytest.raises(UserError, match=words) as error:
        StoryLMTask.setup_task(StoryLMConfig(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(tokens_per_sample=1), "--tokens-per-sample 1: must be at least 2"),
        (dict(prompt_tokens=-1), "--prompt-tokens -1: must not be negative"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        tiny_task(**{"tokens_per_sample": 16, **options})


def test_empty_split_is_refused(tmp_path):
    folder = data_folder(tmp_path / "a", tiny_dictionary(), train=random_rows([0, 0]))
    with pytest.raises(UserError, match="split train holds no story"):
        setup(folder).load_dataset("train")


def test_options_reach_the_dataset(tmp_path):
    folder = data_folder(tmp_path / "a", tiny_dictionary(), train=random_rows([9, 3]))
    task = setup(folder, tokens_per_sample=6, pack=True)
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert dataset.pack and dataset.sizes.tolist() == [6, 4] and dataset.num_cut == 1
    assert task.max_positions() == task.needed_positions == 6
    assert task.source_dictionary is task.target_dictionary is task.dictionary


# --------------------------------------------------------------------- what is remembered


def test_a_checkpoint_remembers_its_rows_and_its_dictionary():
    state = tiny_task(tokens_per_sample=77).state_dict()
    silent, outspoken = tiny_task(tokens_per_sample=None), tiny_task(tokens_per_sample=12)
    assert silent.tokens_per_sample == 256
    silent.load_state_dict(state)
    outspoken.load_state_dict(state)
    assert (silent.tokens_per_sample, outspoken.tokens_per_sample) == (77, 12)
    assert silent.state_dict() == state


def test_a_checkpoint_of_another_dictionary_is_refused():
    state = tiny_task(tiny_dictionary(20)).state_dict()
    same_size = tiny_dictionary(0)
    for i in reversed(range(20)):
        same_size.add_symbol(f"w{i}")
    for dictionary in (same_size, tiny_dictionary(21)):
        with pytest.raises(UserError, match="trained with another dictionary") as error:
            tiny_task(dictionary).load_state_dict(state)
        assert "\n" not in str(error.value)
    tiny_task(tiny_dictionary(20)).load_state_dict(state)
    tiny_task(same_size).load_state_dict({})  # a checkpoint from before says nothing


# -------------------------------------------------------------------------------- prompts


def prompt_set(*lengths):
    return PromptDataset(random_rows(lengths), tiny_dictionary())


def test_too_long_prompts_are_an_error_or_a_counted_skip(caplog):
    task, dataset = tiny_task(), prompt_set(3, 14, 15, 0, 40)
    order = np.arange(5)
    assert task.filter_indices_by_size(order[:2], dataset, 16).tolist() == [0, 1]
    with pytest.raises(UserError) as error:
        task.filter_indices_by_size(order, dataset, 16)
    assert "prompt 3 has 15 tokens, the model has room for 14" in str(error.value)
    assert "--skip-invalid-size-inputs-valid-test" in str(error.value)
    with caplog.at_level(logging.WARNING):
        kept = task.filter_indices_by_size(order, dataset, 16, ignore_invalid_inputs=True)
    assert kept.tolist() == [0, 1, 3]
    assert "2 prompts are too long and left out" in caplog.text


def test_what_fits_can_be_continued():
    model = tiny_model()
    task, dataset = tiny_task(model.dictionary), prompt_set(14)
    batch = dataset.collater([dataset[0]])
    generator = task.build_generator([model], Namespace(beam=2))
    hypos = task.inference_step(generator, [model], batch)
    assert len(hypos[0][0]["tokens"]) == 2  # one word and the end


@pytest.mark.parametrize("prompt_tokens", [0, 2, 9])
def test_stories_are_cut_into_prompts_and_references(prompt_tokens):
    model = tiny_model()
    task = tiny_task(model.dictionary, prompt_tokens=prompt_tokens)
    stories = [[5, 6, 7, 8], [9, 10], [11]]
    batch = story_batch(task, stories)
    generator = task.build_generator([model], Namespace(beam=2, max_len_b=5))
    found = task.inference_step(generator, [model], batch)
    prompts, rest = batch["net_input"]["src_tokens"], batch["target"]
    prompts = [row[row != PAD].tolist() for row in prompts]
    rest = [row[row != PAD].tolist() for row in rest]
    # every story keeps its end as reference, however long the prompt should be
    assert prompts == [[BEGIN, *story[:prompt_tokens]] for story in stories]
    assert rest == [[*story[prompt_tokens:], END] for story in stories]
    assert batch["net_input"]["src_lengths"].tolist() == [len(p) for p in prompts]
    assert not batch["net_input"]["src_tokens"].eq(PAD).all(0).any()  # no column for nothing
    # generation is what the prompts alone give
    for prompt, hypos in zip(prompts, found):
        alone = PromptDataset([torch.tensor(prompt[1:]).long()], model.dictionary)
        (expected,) = task.inference_step(generator, [model], alone.collater([alone[0]]))
        assert hypos[0]["tokens"].tolist() == expected[0]["tokens"].tolist()


def test_a_cut_story_has_no_end_to_refer_to():
    task = tiny_task(tokens_per_sample=4, prompt_tokens=9)
    batch = story_batch(task, [[5, 6, 7, 8, 9, 10]])
    model = tiny_model(task.dictionary)
    generator = task.build_generator([model], Namespace(beam=1))
    task.inference_step(generator, [model], batch)
    assert batch["net_input"]["src_tokens"].tolist() == [[BEGIN, 5, 6, 7]]
    assert batch["target"][batch["target"] != PAD].tolist() == [8]


def test_prefix_size_forces_the_references_first_words():
    model = tiny_model()
    task = tiny_task(model.dictionary, prompt_tokens=2)
    stories = [[5, 6, 7, 8, 9], [10, 11, 12, 13], [4, 5, 6]]
    batch = story_batch(task, stories)
    generator = task.build_generator([model], Namespace(beam=3, max_len_b=6))
    # fairseq-generate takes the first columns of the target before it is cut
    found = task.inference_step(generator, [model], batch, prefix_tokens=batch["target"][:, :2])
    for story, hypos in zip(stories, found):
        forced = [*story, END][2:4]
        assert hypos[0]["tokens"].tolist()[:2] == forced
        assert all(h["score"].isfinite() for h in hypos)


def test_packed_stories_are_no_prompts():
    task = tiny_task(pack=True)
    model = tiny_model(task.dictionary)
    generator = task.build_generator([model], Namespace(beam=1))
    with pytest.raises(UserError, match="--pack is for training"):
        task.inference_step(generator, [model], story_batch(task, [[5, 6], [7]]))


def test_stories_are_scored_whole():
    """``--score-reference``: fairseq's scorer sees the story as it is, not cut into a prompt."""
    model = tiny_model()
    task = tiny_task(model.dictionary, prompt_tokens=2)
    batch = story_batch(task, [[5, 6, 7, 8], [9, 10]])
    scorer = task.build_generator([model], Namespace(score_reference=True))
    found = task.inference_step(scorer, [model], batch)
    for words, hypos in zip(([5, 6, 7, 8], [9, 10]), found):
        assert hypos[0]["tokens"].tolist() == [*words, END]
        with torch.no_grad():
            lprobs = model(torch.tensor([[BEGIN, *words]]))[0][0].log_softmax(-1)
        expected = torch.stack([lp[w] for lp, w in zip(lprobs, [*words, END])])
        torch.testing.assert_close(hypos[0]["positional_scores"], expected, atol=1e-5, rtol=1e-5)


# ----------------------------------------------------------------------------- evaluation


def test_eval_lm_scores_every_story(tmp_path):
    rows = random_rows([3, 5, 2, 7, 4, 0, 30])
    folder = data_folder(tmp_path / "a", tiny_dictionary(), test=rows)
    task = setup(folder, tokens_per_sample=16)
    task.load_dataset("test")
    options = dict(max_tokens=16, max_positions=16, num_workers=0, data_buffer_size=0)
    batches = list(task.eval_lm_dataloader(task.dataset("test"), **options))
    assert sorted(n for b in batches for n in b["id"].tolist()) == [0, 1, 2, 3, 4, 6]
    assert sum(b["ntokens"] for b in batches) == 4 + 6 + 3 + 8 + 5 + 16
    with pytest.raises(UserError, match="--context-window 3"):
        task.eval_lm_dataloader(task.dataset("test"), context_window=3, **options)
    with pytest.raises(UserError, match="0 of 7 samples are left"):
        task.eval_lm_dataloader(task.dataset("test"), **{**options, "max_positions": 2})


# ------------------------------------------------------------------------------ tokenizer


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A data folder with its tokenizer, as prepare.sh leaves it."""
    folder = tmp_path_factory.mktemp("speaking")
    tokenizer = train_tokenizer(folder / TOKENIZER_FILE, TEXTS * 5)
    data_folder(folder, dictionary_of(tokenizer))
    return folder


def test_the_tokenizer_beside_the_data_is_found(speaking, tmp_path):
    for args in (Namespace(bpe=None), Namespace()):
        assert setup(speaking).build_bpe(args).encode("the cat") == "▁the ▁cat"
    assert setup(data_folder(tmp_path / "bare", tiny_dictionary())).build_bpe(Namespace()) is None
    named = Namespace(bpe="sentencepiece", sentencepiece_model=str(speaking / TOKENIZER_FILE))
    bare = setup(tmp_path / "bare")
    assert bare.build_bpe(named).encode("the cat") == "▁the ▁cat"


@pytest.mark.parametrize("text", ["the cat ran", "the 🐈 ran — “so”!", "猫"])
def test_text_survives_the_tokenizer(speaking, text):
    task = setup(speaking)
    tokens = task.encode_prompt(text)
    assert tokens[-1] == END and task.dictionary.unk() not in tokens
    assert tokens.dtype == torch.int64
    # a continuation that begins a new word brings the space between
    assert task.decode_tokens(tokens) == " " + text
    bpe = task.build_bpe(Namespace(bpe=None))
    assert bpe.decode(task.dictionary.string(tokens)) == text


def test_a_continuation_of_a_word_brings_no_space(speaking):
    task = setup(speaking)
    task.encode_prompt("a")
    pieces = ["ra", "n", "▁to"]
    tokens = torch.tensor([task.dictionary.index(p) for p in pieces if p in task.dictionary])
    assert len(tokens) >= 2
    assert not task.decode_tokens(tokens).startswith(" ")


def test_without_a_tokenizer_words_are_pieces(tmp_path):
    task = setup(data_folder(tmp_path / "bare", tiny_dictionary()))
    assert task.encode_prompt("w1 w3 nothing").tolist() == [5, 7, 3, END]
    assert task.decode_tokens(torch.tensor([5, 7, END])) == "w1 w3"


# ----------------------------------------------------------------------------- validation


def test_samples_are_written_at_each_validation(speaking, caplog):
    task = setup(speaking, tokens_per_sample=16, sample_prompts="the cat| |a dog", sample_length=4)
    model = tiny_model(task.dictionary)
    stats = {"num_updates": 7}
    with caplog.at_level(logging.INFO):
        task.post_validate(model, stats, agg=None)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("sample ")]
    assert len(lines) == 2  # the empty prompt is none
    assert lines[0].startswith("sample 0 @ 7 updates: the cat|")
    assert lines[1].startswith("sample 1 @ 7 updates: a dog|")
    assert stats["sample_tok_s"] > 0


def test_without_prompts_nothing_is_sampled(speaking, caplog):
    stats = {"num_updates": 7}
    with caplog.at_level(logging.INFO):
        setup(speaking).post_validate(None, stats, agg=None)
    assert stats == {"num_updates": 7} and "sample " not in caplog.text


def test_only_the_first_worker_samples(speaking, monkeypatch):
    task = setup(speaking, sample_prompts="the cat")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    stats = {"num_updates": 7}
    task.post_validate(None, stats, agg=None)
    assert stats == {"num_updates": 7}

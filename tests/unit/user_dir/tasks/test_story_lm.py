"""``story_lm``: which options it takes, and how stories become prompts."""

import logging
from argparse import Namespace

import numpy as np
import pytest
import torch

from fairtale.data.story.dataset import PromptDataset
from fairtale.errors import UserError
from tests.helpers import (
    random_rows,
    tiny_dictionary,
    tiny_model,
    tiny_task,
)
from tests.story_helpers import data_folder, setup

BEGIN, PAD, END = 0, 1, 2


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(tokens_per_sample=1), "--tokens-per-sample 1: must be at least 2"),
        (dict(prompt_tokens=-1), "--prompt-tokens -1: must not be negative"),
        (dict(sample_break_mode="complete"), "--sample-break-mode complete: must be eos or split"),
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


def test_the_break_mode_is_remembered():
    trained = tiny_task(sample_break_mode="split").state_dict()
    assert trained["sample_break_mode"] == "split"
    later = tiny_task()
    later.load_state_dict(trained)
    assert later.sample_break_mode == "split"
    asked = tiny_task(sample_break_mode="eos")
    asked.load_state_dict(trained)
    assert asked.sample_break_mode == "eos"
    with pytest.raises(UserError, match="training began with --sample-break-mode split"):
        tiny_task().check_resumed(trained)


def test_checkpoints_from_before_the_break_mode_have_the_default():
    task = tiny_task()
    task.load_state_dict({"tokens_per_sample": 16})
    assert task.sample_break_mode == "eos"


def test_blocks_are_no_prompts():
    task = tiny_task(sample_break_mode="none")
    generator = task.build_generator([tiny_model()], Namespace(beam=1, max_len_b=4))
    batch = story_batch(task, [[5, 6, 7]])
    with pytest.raises(UserError, match="generate with --sample-break-mode eos"):
        task.inference_step(generator, [tiny_model()], batch)


# -------------------------------------------------------------------------------- prompts


def prompt_set(*lengths):
    return PromptDataset(random_rows(lengths), tiny_dictionary())


def test_too_long_prompts_are_an_error_or_a_counted_skip(caplog):
    task, dataset = tiny_task(), prompt_set(3, 14, 15, 0, 40)
    order = np.arange(5)
    assert task.filter_indices_by_size(order[:2], dataset, 16).tolist() == [0, 1]
    with pytest.raises(UserError) as error:
        task.filter_indices_by_size(order, dataset, 16)
    assert "prompt 3 has 15 tokens, but the model has room for 14" in str(error.value)
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
    with pytest.raises(UserError, match="--pack: cannot be used in generation"):
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

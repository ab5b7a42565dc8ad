"""Tasks with one dictionary: data folders, stored options, input and output text."""

from argparse import Namespace

import pytest
import torch

from fairtale.data.corpus.vocabulary import TOKENIZER_FILE
from fairtale.errors import UserError
from tests.helpers import dictionary_of, random_rows, tiny_dictionary, tiny_task, train_tokenizer
from tests.story_helpers import data_folder, setup
from user_dir.tasks.story_lm import StoryLMConfig, StoryLMTask

END = 2
TEXTS = ["the cat ran to the cat", "a cat and a dog", "the dog ran"]


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


# --------------------------------------------------------------------- what is remembered


def test_a_checkpoint_remembers_its_rows_and_its_dictionary():
    state = tiny_task(tokens_per_sample=77).state_dict()
    unset, given = tiny_task(tokens_per_sample=None), tiny_task(tokens_per_sample=12)
    assert unset.tokens_per_sample == 256
    unset.load_state_dict(state)
    given.load_state_dict(state)
    assert (unset.tokens_per_sample, given.tokens_per_sample) == (77, 12)
    assert unset.state_dict() == state


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
    tiny_task(same_size).load_state_dict({})  # older checkpoints have no fingerprint


# ------------------------------------------------------------------------------ tokenizer


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """Make a data folder with its tokenizer, as prepare.sh does."""
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
    # a continuation that begins a new word starts with a space
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

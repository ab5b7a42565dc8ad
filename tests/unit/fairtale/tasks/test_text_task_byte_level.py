"""Tasks with a byte-level tokenizer beside the data, trained here or with Hugging Face's ids."""

import json
import random
import shutil
from argparse import Namespace

import pytest
import torch
from fairseq.data import Dictionary

from fairtale.data.corpus.byte_level import ByteLevelBPE
from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.data.corpus.tokenizer_dictionary import TokenizerDictionary, read_dictionary
from fairtale.data.corpus.vocabulary import TOKENIZER_FILE, find_tokenizer, token_bytes
from fairtale.errors import UserError
from fairtale.generation.growing_text import text_as_it_grows
from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session
from tests.byte_level_helpers import TEXTS, train_byte_level, write_json
from tests.dialog_helpers import dialog_task
from tests.helpers import tiny_model, tiny_task, train_tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data folder of ``bpe train``, with the marks of dialogs."""
    folder = tmp_path_factory.mktemp("trained")
    return train_byte_level(folder, TEXTS * 2, "--symbols", "<CTX>", "<SEP>")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A data folder with the ids of a tokenizer whose token ``<|end|>`` begins and ends a text."""
    folder = tmp_path_factory.mktemp("imported")
    bpe = load_byte_level(str(write_json(folder)))
    entries = [*bpe.pieces, "madeupword0259"]
    TokenizerDictionary.with_roles(entries, {"eos": 258}).save(str(folder / "dict.txt"))
    return folder


@pytest.fixture(params=["trained", "imported"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def task(folder):
    return tiny_task(read_dictionary(str(folder / "dict.txt")), data=str(folder))


def test_indices_are_ids(folder, task):
    bpe = load_byte_level(str(folder / "tokenizer.json"))
    assert task.dictionary.symbols[: len(bpe)] == bpe.pieces
    for text in TEXTS:
        assert task.encode_prompt(text).tolist()[:-1] == bpe.encode_ids(text)


def test_stock_fairseq_reads_a_trained_dictionary(trained):
    dictionary = Dictionary.load(str(trained / "dict.txt"))
    assert len(dictionary) == 300 and dictionary.symbols[4:6] == ["<CTX>", "<SEP>"]


@pytest.mark.parametrize("text", [text for text in TEXTS if "<" not in text])
def test_text_is_kept_by_the_task_and_its_bytes_are_counted(task, text):
    tokens = task.encode_prompt(text)
    assert task.dictionary.unk() not in tokens[:-1]
    assert task.decode_tokens(tokens) == text  # a continuation keeps the space before it
    assert task.build_bpe(Namespace(bpe=None)).decode(task.dictionary.string(tokens)) == text
    counts = token_bytes(task.dictionary)
    assert counts[tokens].sum() == len(text.encode())
    for end in range(len(tokens)):  # a story that is cut counts its bytes up to there
        pieces = [task.dictionary[token] for token in tokens[:end]]
        assert counts[tokens[:end]].sum() == sum(map(len, pieces))


def test_special_symbols_have_no_bytes_and_other_tokens_are_text(imported):
    symbols = ["<mask>", "<｜end▁of｜>", "<0x41>"]
    bpe = load_byte_level(str(imported / "tokenizer.json"))
    dictionary = TokenizerDictionary.with_roles([*bpe.pieces, *symbols], {"eos": 258})
    counts = token_bytes(dictionary)
    assert counts[dictionary.eos()] == counts[dictionary.pad()] == 0
    assert [int(counts[dictionary.index(s)]) for s in symbols] == [6, 16, 6]
    assert int(counts[dictionary.unk()]) == 1
    assert int(token_bytes(read_dictionary(str(imported / "dict.txt")))[259]) == 0  # a filler


def test_another_tokenizer_can_be_named(task, tmp_path, trained):
    named = Namespace(bpe="byte_level", byte_level_tokenizer=str(trained / "tokenizer.json"))
    bare = tiny_task(task.dictionary, data=str(tmp_path))
    assert bare.build_bpe(Namespace(bpe=None)) is None
    assert isinstance(bare.build_bpe(named), ByteLevelBPE)


def test_two_tokenizers_in_one_folder_are_ambiguous(tmp_path, trained):
    train_tokenizer(tmp_path / TOKENIZER_FILE, TEXTS[2:5] * 9)
    assert find_tokenizer([str(tmp_path)]).endswith(TOKENIZER_FILE)
    settings = {"tokenizer": "moses", "normalize": True, "escape": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))  # of `fairtale bitext`
    assert find_tokenizer([str(tmp_path)]).endswith(TOKENIZER_FILE)
    shutil.copy(trained / "tokenizer.json", tmp_path)
    with pytest.raises(UserError, match="two tokenizers, sentencepiece.bpe.model and tokenizer.js"):
        find_tokenizer([str(tmp_path)])
    (tmp_path / TOKENIZER_FILE).unlink()
    assert find_tokenizer([str(tmp_path)]).endswith("tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")  # unusable, but not to be overlooked
    assert find_tokenizer([str(tmp_path)]).endswith("tokenizer.json")


# --------------------------------------------------------------------------- generation


def test_characters_are_never_broken_in_a_stream(task):
    draw = random.Random(1)
    for text in ["Жил-был 🐈‍⬛ кот, 猫は é\n\n \ufffd!", *TEXTS]:
        tokens = task.encode_prompt(text)[:-1].tolist()
        parts = list(text_as_it_grows(tokens, task.decode_ids))
        assert "".join(parts) == task.decode_ids(tokens)
        for part in parts:
            # U+FFFD in a part comes from the text itself
            assert part.count("\ufffd") <= text.count("\ufffd")
        noise = [draw.randrange(len(task.dictionary)) for _ in range(50)]
        assert "".join(text_as_it_grows(noise, task.decode_ids)) == task.decode_ids(noise)


def test_a_stream_writes_what_a_batch_writes_and_ends(task):
    model = tiny_model(task.dictionary, max_positions=40, seed=3)
    session = Session(task, model)
    options = DecodingOptions(sampling_topk=1, max_len_b=12)
    for prompt in ("the cat", "Привет 🐈 ", ""):
        (expected,), _ = session.continue_batch([prompt], options)
        assert session.continue_text(prompt, options) == expected != ""
    # the model may end the text, also where the same token begins it
    with torch.no_grad():
        model.transformer.embed_tokens.weight.zero_()
    eos, forward = task.dictionary.eos(), model.decoder.forward

    def sure_of_the_end(*args):
        out = forward(*args)
        out[0][..., eos] += 50.0
        return out

    model.decoder.forward = sure_of_the_end
    assert len(list(session.stream("the", DecodingOptions(sampling_topk=1, max_len_b=9)))) == 1


def test_a_reply_may_end_and_holds_no_marks(trained):
    dictionary = Dictionary.load(str(trained / "dict.txt"))
    task = dialog_task(dictionary, data=str(trained), tensorboard_logdir=None)
    tokens = task.encode_turns(["a <SEP>b", "<CTX>"])
    pieces = [dictionary[token] for token in tokens]
    assert pieces.count("<SEP>") == pieces.count("<CTX>") == 1 and pieces[-2:] == ["<SEP>", "</s>"]
    assert task.decode_tokens(tokens[:-2]) == "a <SEP>b<CTX><CTX>"
    task._options["seq2seq_prob"] = 1.0
    _, eos, forbidden = task.reply_input(["a"], "cpu")
    assert eos == 2 and list(forbidden) == [0, 1, 4, 5]
    TokenizerDictionary.with_roles(dictionary.symbols, {"eos": 2}).save(str(trained / "x.txt"))
    task.dictionary = read_dictionary(str(trained / "x.txt"))
    _, eos, forbidden = task.reply_input(["a"], "cpu")
    assert eos == task.dictionary.bos() == 2 and eos not in forbidden


def test_words_to_steer_by_are_those_inside_a_text(trained, tmp_path):
    (tmp_path / "words").write_text("cat\nкот\n", encoding="utf-8")
    options = {"steer_words": str(tmp_path / "words"), "tensorboard_logdir": None}
    task = dialog_task(Dictionary.load(str(trained / "dict.txt")), data=str(trained), **options)
    (steering,) = task.reply_processors()
    found = {task.decode_ids(word.tolist()) for words in steering.words for word in words}
    assert found == {" cat", " кот"}

"""Translation of plain text: files beside the data, and settings in checkpoints."""

import json
from argparse import Namespace
from dataclasses import asdict

import pytest

from fairtale.data.parallel.text import TextSettings, write_settings
from fairtale.errors import UserError
from tests.helpers import dictionary_of, tiny_dictionary, train_tokenizer
from tests.translation_helpers import ENGLISH, RUSSIAN, rows_of, setup, write_data
from user_dir.tasks.wmt16_translation import WMT16TranslationTask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make a data folder as prepare.sh does."""
    return write_data(tmp_path_factory.mktemp("data"))


# --------------------------------------------------------------------------------- text


def test_text_goes_in_and_comes_out(data):
    task = setup(data)
    tokenizer, bpe = task.build_tokenizer(None), task.build_bpe(None)
    pieces = bpe.encode(tokenizer.encode("He said: “It’s a dog”."))
    line = task.src_dict.encode_line(pieces, add_if_not_exist=False)
    assert task.src_dict.unk() not in line.tolist()
    assert task.plain_text(line, source=True) == 'He said: "It\'s a dog."'
    _, batch = rows_of(task, "valid")
    for i, row in zip(batch["id"].tolist(), batch["target"]):
        assert task.plain_text(row[row.ne(1)]) == RUSSIAN[i]
        assert tokenizer.decode(bpe.decode(task.tgt_dict.string(row[row.ne(1)]))) == RUSSIAN[i]


def test_each_language_may_have_pieces_of_its_own(tmp_path):
    for lang, texts in (("en", ENGLISH), ("ru", RUSSIAN)):
        processor = train_tokenizer(tmp_path / f"sentencepiece.bpe.{lang}.model", texts, 310)
        dictionary_of(processor).save(str(tmp_path / f"dict.{lang}.txt"))
    task = setup(tmp_path)
    assert task.build_tokenizer(None) is None  # without settings, text is not tokenised
    bpe = task.build_bpe(None)
    line = task.src_dict.encode_line(bpe.encode("the cat ran"), add_if_not_exist=False)
    assert task.plain_text(line, source=True) == "the cat ran"
    turned = setup(tmp_path, source_lang="ru", target_lang="en").build_bpe(None)
    assert turned.encode("кот") != bpe.encode("кот")


def test_options_win_over_the_folder(data):
    task = setup(data)
    from fairseq.data.encoders.space_tokenizer import SpaceTokenizer

    assert isinstance(task.build_tokenizer(Namespace(tokenizer="space")), SpaceTokenizer)
    message = "the tokenizer /nowhere cannot be loaded"
    with pytest.raises(UserError, match=message):
        task.build_bpe(Namespace(bpe="sentencepiece", sentencepiece_model="/nowhere"))


def test_prompt_lines_must_be_utf8(data):
    task = setup(data)
    task.get_interactive_tokens_and_lengths(["one", "zwei"], str)
    with pytest.raises(UserError, match="input line 4 is not valid UTF-8"):
        task.get_interactive_tokens_and_lengths(
            ["ok", b"\xff".decode(errors="surrogateescape")], str
        )


# --------------------------------------------------------------------- stored settings


def test_a_checkpoint_brings_its_settings(data, tmp_path):
    state = setup(data).state_dict()
    assert state["languages"] == ["en", "ru"] and state["tokenizer"] == asdict(TextSettings())
    for lang in ("en", "ru"):  # the other folder has only dictionaries
        (tmp_path / f"dict.{lang}.txt").write_bytes((data / f"dict.{lang}.txt").read_bytes())
    task = setup(tmp_path)
    assert task.build_tokenizer(None) is None and task.build_bpe(None) is None
    task.load_state_dict(json.loads(json.dumps(state)))
    assert task.build_tokenizer(None).encode("it's") == "it 's"
    assert task.build_bpe(None).encode("the cat").split() == ["▁the", "▁cat"]


def test_the_direction_is_the_checkpoints(data):
    state = setup(data, source_lang="ru", target_lang="en").state_dict()
    task = setup(data)
    assert (task.cfg.source_lang, task.cfg.target_lang) == ("en", "ru")
    english = task.src_dict
    task.load_state_dict(state)
    assert (task.cfg.source_lang, task.cfg.target_lang) == ("ru", "en")
    assert task.tgt_dict is english
    with pytest.raises(UserError, match="-s en -t ru: the checkpoint translates ru-en"):
        setup(data, source_lang="en").load_state_dict(state)
    with pytest.raises(UserError, match="the checkpoint translates ru-en, not en-ru"):
        setup(data).check_checkpoint(state)


def test_a_task_with_two_dictionaries_is_not_turned_round(data, tmp_path):
    """The caller may already use one of them; commands request the direction earlier."""
    for name in data.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    tiny_dictionary().save(str(tmp_path / "dict.ru.txt"))
    state = setup(tmp_path, source_lang="ru", target_lang="en").state_dict()
    with pytest.raises(UserError, match="was set up for en-ru: add -s ru -t en"):
        setup(tmp_path).load_state_dict(state)
    assert WMT16TranslationTask.direction_of(state) == ["ru", "en"]
    assert WMT16TranslationTask.direction_of({}) is None


@pytest.mark.parametrize("first", [("en", "ru"), ("ru", "en")])
def test_models_of_both_directions_are_refused(data, first):
    def state(source, target):
        return setup(data, source_lang=source, target_lang=target).state_dict()

    task = setup(data)
    for _ in range(2):
        task.load_state_dict(state(*first))
    with pytest.raises(UserError, match="and an earlier one .*models of one direction only"):
        task.load_state_dict(state(*reversed(first)))


@pytest.mark.parametrize("lang", ["en", "ru"])
def test_another_dictionary_is_refused(data, tmp_path, lang):
    state = setup(data).state_dict()
    for name in data.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    tiny_dictionary().save(str(tmp_path / f"dict.{lang}.txt"))
    with pytest.raises(UserError, match=rf"another dictionary than \S+dict.{lang}.txt"):
        setup(tmp_path).load_state_dict(state)


def test_another_tokenizer_is_refused(data, tmp_path):
    state = setup(data).state_dict()
    for name in data.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    write_settings(tmp_path, TextSettings(escape=True))
    with pytest.raises(UserError, match="trained on text tokenised with .*false.* has .*true"):
        setup(tmp_path).load_state_dict(state)


def test_a_foreign_checkpoint_is_taken(data):
    setup(data).load_state_dict({})  # of fairseq's own translation task

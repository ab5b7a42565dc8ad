"""``wmt16_translation``: what it finds, remembers, decodes and scores."""

import json
import logging
from argparse import Namespace
from dataclasses import asdict

import pytest
import sacrebleu
import torch
from fairseq.logging import metrics

from fairtale.data.parallel.dataset import ScoredPairs
from fairtale.data.parallel.text import LanguageText, TextSettings, write_settings
from fairtale.errors import UserError
from tests.helpers import dictionary_of, tiny_dictionary, train_tokenizer, write_split
from user_dir.tasks.wmt16_translation import WMT16TranslationConfig, WMT16TranslationTask

ENGLISH = ["the cat ran home.", 'he said: "yes, it\'s a dog".', "a cat and the dog ran", "no"]
RUSSIAN = ["кот убежал домой.", 'он сказал: "да, это собака".', "кот и собака бежали", "нет"]


def setup(folder, **options):
    options.setdefault("tensorboard_logdir", None)
    options.setdefault("train_subset", "train")
    options.setdefault("dataset_impl", None)
    options.setdefault("required_seq_len_multiple", 1)
    return WMT16TranslationTask.setup_task(WMT16TranslationConfig(data=str(folder), **options))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as prepare.sh leaves it."""
    folder = tmp_path_factory.mktemp("data")
    write_settings(folder, TextSettings())
    tools = [LanguageText(lang, TextSettings()) for lang in ("en", "ru")]
    sides = [[tool.tokenize(t) for t in texts] for tool, texts in zip(tools, (ENGLISH, RUSSIAN))]
    processor = train_tokenizer(folder / "sentencepiece.bpe.model", sides[0] + sides[1], 330)
    dictionary = dictionary_of(processor)
    for lang, lines in zip(("en", "ru"), sides):
        dictionary.save(str(folder / f"dict.{lang}.txt"))
        rows = [
            dictionary.encode_line(" ".join(processor.encode(line, out_type=str)), append_eos=False)
            for line in lines
        ]
        for split, part in (("train", rows), ("valid", rows), ("test", rows[:2])):
            write_split(folder, f"{split}.en-ru.{lang}", part, len(dictionary))
    return folder


def rows_of(task, split):
    task.load_dataset(split)
    dataset = task.dataset(split)
    return dataset, dataset.collater([dataset[i] for i in range(len(dataset))])


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
    assert task.build_tokenizer(None) is None  # no settings: text is not tokenised
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


# --------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_bleu_detok": "moses"}, "--eval-bleu-detok: .*leave it out"),
        ({"eval_bleu_remove_bpe": "@@ "}, "--eval-bleu-remove-bpe"),
        ({"eval_tokenized_bleu": True}, "--eval-tokenized-bleu"),
        ({"eval_bleu_sentences": -1}, "--eval-bleu-sentences -1: 0 or more"),
        ({"sample_translations": -2}, "--sample-translations -2: 0 or more"),
        ({"source_lang": "de", "target_lang": "en"}, r"dict.de.txt does not exist: .*prepare.sh"),
    ],
)
def test_options_that_mean_nothing(data, options, message):
    with pytest.raises(UserError, match=message):
        setup(data, **options)


def test_no_folder():
    with pytest.raises(UserError, match="no data folder given"):
        WMT16TranslationTask.setup_task(WMT16TranslationConfig())


@pytest.mark.parametrize("text", ["{beam: 4}", "[4]"])
def test_options_of_validation(data, text):
    task = setup(data, eval_bleu_args=text)
    with pytest.raises(UserError, match="--eval-bleu-args"):
        task.build_model(Namespace(_name="transformer", arch="transformer_tiny"))


def test_several_folders_need_one_dictionary(data, tmp_path):
    for lang in ("en", "ru"):
        tiny_dictionary().save(str(tmp_path / f"dict.{lang}.txt"))
    with pytest.raises(UserError, match="dict.en.txt differs from the first folder's"):
        setup(f"{data}:{tmp_path}")


def test_sides_of_different_length(data, tmp_path):
    for name in data.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    write_split(tmp_path, "valid.en-ru.ru", [[5, 6]], 24)
    with pytest.raises(UserError, match=r"valid.en-ru: 4 en and 1 ru sentences; run"):
        setup(tmp_path).load_dataset("valid")


def test_a_split_that_is_not_there(data):
    with pytest.raises(UserError, match="split test7 for en-ru not found in"):
        setup(data).load_dataset("test7")


# ------------------------------------------------------------------ what is remembered


def test_a_checkpoint_brings_its_settings(data, tmp_path):
    state = setup(data).state_dict()
    assert state["languages"] == ["en", "ru"] and state["tokenizer"] == asdict(TextSettings())
    for lang in ("en", "ru"):  # only dictionaries travel with the checkpoint
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
    """Who has set it up may have taken one of them; commands ask for the direction before."""
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
    with pytest.raises(UserError, match="and one before it .*models of one direction only"):
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
    with pytest.raises(UserError, match="trained on text tokenised with .*false.*says .*true"):
        setup(tmp_path).load_state_dict(state)


def test_a_foreign_checkpoint_is_taken(data):
    setup(data).load_state_dict({})  # of fairseq's own translation task


# --------------------------------------------------------------------------- validation


def fake_translations(task, texts):
    """Let the task translate sentence i as ``texts[i]``."""

    def inference_step(generator, models, sample):
        bpe, text = task.build_bpe(None), task.build_tokenizer(None).target
        found = []
        for i in sample["id"].tolist():
            pieces = bpe.encode(text.tokenize(texts[i]))
            tokens = task.tgt_dict.encode_line(pieces, add_if_not_exist=False)
            found.append([{"tokens": tokens}])
        return found

    task.inference_step = inference_step


TRANSLATIONS = ["кот убежал далеко.", 'он сказал: "да, это собака".', "кот да собака", "нет нет"]


def log_of(task, sample):
    bleu = task._inference_with_bleu(None, sample, None)
    log = {"_bleu_sys_len": bleu.sys_len, "_bleu_ref_len": bleu.ref_len}
    for i in range(4):
        log |= {f"_bleu_counts_{i}": bleu.counts[i], f"_bleu_totals_{i}": bleu.totals[i]}
    return log


class NoCriterion:
    @staticmethod
    def reduce_metrics(logs):
        pass


@pytest.mark.parametrize("count", [4, 2])
def test_bleu_is_that_of_plain_text_over_all_workers(data, count):
    task = setup(data, eval_bleu_sentences=count)
    fake_translations(task, TRANSLATIONS)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    assert isinstance(dataset, ScoredPairs)
    batches = [dataset.collater([dataset[i] for i in part]) for part in ([0, 1, 3], [2])]
    logs = [log_of(task, batch) | {"ntokens": 1, "nsentences": 1} for batch in batches]
    with metrics.aggregate() as agg:
        task.reduce_metrics(logs, NoCriterion())
    chosen = range(4) if count == 4 else (0, 2)
    expected = sacrebleu.corpus_bleu(
        [TRANSLATIONS[i] for i in chosen], [[RUSSIAN[i] for i in chosen]]
    )
    assert agg.get_smoothed_values()["bleu"] == round(expected.score, 2) > 0


def test_empty_translations_have_a_bleu(data):
    task = setup(data)
    fake_translations(task, [""] * 4)
    _, batch = rows_of(task, "valid")
    log = log_of(task, batch) | {"ntokens": 1, "nsentences": 4}
    with metrics.aggregate() as agg:
        task.reduce_metrics([log], NoCriterion())
    assert agg.get_smoothed_values()["bleu"] == 0
    with metrics.aggregate() as agg:  # in training
        task.reduce_metrics([{"ntokens": 1, "nsentences": 4}], NoCriterion())
    assert "bleu" not in agg.get_smoothed_values()


def test_no_bleu_without_sentences(data):
    task = setup(data, eval_bleu_sentences=0)
    task.load_dataset("valid")
    assert not isinstance(task.dataset("valid"), ScoredPairs) and not task.cfg.eval_bleu


def test_eval_bleu_means_all(data):
    task = setup(data, eval_bleu=True, eval_bleu_sentences=1)
    _, batch = rows_of(task, "valid")
    assert batch["scored"].all()
    task.load_dataset("train")
    assert not isinstance(task.dataset("train"), ScoredPairs)


def test_the_commands_options_stay_as_they_are(data):
    cfg = WMT16TranslationConfig(data=str(data), tensorboard_logdir=None)
    task = WMT16TranslationTask.setup_task(cfg)
    assert task.cfg.eval_bleu and not cfg.eval_bleu


def test_what_is_unknown_does_not_match(data):
    task = setup(data)
    unknown = torch.tensor([task.tgt_dict.unk(), 2])
    assert task.plain_text(unknown, "A") == "A" != task.plain_text(unknown, "B")


def test_samples_and_signature(data, caplog, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = setup(data, sample_translations=2, tensorboard_logdir=str(tmp_path))
    fake_translations(task, TRANSLATIONS)
    _, batch = rows_of(task, "valid")
    with caplog.at_level(logging.INFO):
        for update in (10, 20):
            log_of(task, batch)
            task.post_validate(None, {"num_updates": update}, None)
    text = caplog.text
    assert text.count("BLEU signature: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:") == 1
    assert text.count("@ 10 updates") == text.count("@ 20 updates") == 2
    for lines in (ENGLISH, TRANSLATIONS, RUSSIAN):
        assert sum(line in text for line in lines) == 2
    task._samples.writer.close()  # a thread writes; flush does not wait for it
    events = EventAccumulator(str(tmp_path / "samples"))
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("translation/")]
    assert len(tags) == 2
    assert [[event.step for event in events.Tensors(tag)] for tag in tags] == [[10, 20]] * 2
    body = events.Tensors(tags[0])[0].tensor_proto.string_val[0].decode()
    assert any(line in body for line in RUSSIAN)


def test_no_samples(data, caplog):
    task = setup(data, sample_translations=0)
    fake_translations(task, TRANSLATIONS)
    _, batch = rows_of(task, "valid")
    with caplog.at_level(logging.INFO):
        log_of(task, batch)
        task.post_validate(None, {"num_updates": 1}, None)
    assert "BLEU signature" in caplog.text and "translation of" not in caplog.text

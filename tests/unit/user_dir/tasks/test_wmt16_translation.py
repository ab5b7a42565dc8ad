"""``wmt16_translation``: which options and data it takes, and its validation."""

import logging
from argparse import Namespace

import pytest
import sacrebleu
import torch
from fairseq.logging import metrics

from fairtale.data.parallel.dataset import ScoredPairs
from fairtale.errors import UserError
from tests.helpers import tiny_dictionary, write_split
from tests.translation_helpers import ENGLISH, RUSSIAN, rows_of, setup, write_data
from user_dir.tasks.wmt16_translation import WMT16TranslationConfig, WMT16TranslationTask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as prepare.sh leaves it."""
    return write_data(tmp_path_factory.mktemp("data"))


# --------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_bleu_detok": "moses"}, "--eval-bleu-detok: .*leave it out"),
        ({"eval_bleu_remove_bpe": "@@ "}, "--eval-bleu-remove-bpe"),
        ({"eval_tokenized_bleu": True}, "--eval-tokenized-bleu"),
        ({"eval_bleu_sentences": -1}, "--eval-bleu-sentences -1: must be at least 0"),
        ({"sample_translations": -2}, "--sample-translations -2: must be at least 0"),
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

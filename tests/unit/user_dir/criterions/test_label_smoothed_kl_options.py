"""Tests that every option of the criterion is consumed, and bad ones are refused."""

from types import SimpleNamespace

import pytest
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from fairtale.errors import UserError
from tests.criterion_helpers import fields_read, smoothed_kl
from user_dir.criterions.label_smoothed_kl import (
    LabelSmoothedKLCriterion,
    LabelSmoothedKLCriterionConfig,
)


@pytest.fixture
def task():
    return SimpleNamespace(target_dictionary=Dictionary())


def test_every_config_field_is_consumed(task):
    fields, read = fields_read(LabelSmoothedKLCriterion, LabelSmoothedKLCriterionConfig, task)
    assert read == fields and len(fields) == 7


def test_every_option_reaches_its_place(task):
    cfg = OmegaConf.create(
        dict(
            label_smoothing=0.25,
            use_kl=True,
            report_accuracy=True,
            report_kl=True,
            loss_average="samples",
            loss_chunk_mib=3,
            sentence_avg=False,
        )
    )
    criterion = LabelSmoothedKLCriterion.build_criterion(cfg, task)
    assert (criterion.eps, criterion.use_kl, criterion.by_samples) == (0.25, True, True)
    assert (criterion.report_accuracy, criterion.report_kl) == (True, True)
    assert criterion.chunk_mib == 3


@pytest.mark.parametrize(
    "option, message",
    [
        (dict(label_smoothing=1.0), "--label-smoothing 1.0"),
        (dict(label_smoothing=-0.1), "--label-smoothing -0.1"),
        (dict(loss_average="words"), "--loss-average words"),
        (dict(loss_chunk_mib=-1), "--loss-chunk-mib -1"),
        (dict(sentence_avg=True), "--sentence-avg"),
    ],
)
def test_bad_options(task, option, message):
    with pytest.raises(UserError) as error:
        smoothed_kl(task, **option)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)

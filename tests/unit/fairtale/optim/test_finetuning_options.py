"""Options of fine-tuning on the command line of ``fairseq-train``."""

import pytest
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairtale.errors import UserError
from fairtale.optim.finetuning_config import (
    FinetuningConfig,
    add_options,
    fixed_options,
)
from fairtale.plugin import register
from tests.compat_helpers import parse

register()  # the schedules, also where this file runs alone

OPTIONS = [
    *("--finetune-groups", "2", "--lr-decay-per-group", "0.5"),
    *("--unfreeze-schedule", "0:1,4:2,8:all", "--optimizer", "adam"),
]
VALUES = {
    "finetune_groups": 2,
    "lr_decay_per_group": 0.5,
    "unfreeze_schedule": "0:1,4:2,8:all",
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adafactor"])
def test_options_reach_the_config_with_every_optimizer(optimizer):
    cfg = convert_namespace_to_omegaconf(parse(*OPTIONS, "--optimizer", optimizer))
    assert fixed_options(cfg.optimization) == VALUES
    cfg = convert_namespace_to_omegaconf(parse("--lr-per-group", "1e-4,2e-4", "--optimizer", "sgd"))
    assert fixed_options(cfg.optimization) == {"lr_per_group": "1e-4,2e-4"}
    assert fixed_options(convert_namespace_to_omegaconf(parse()).optimization) == {}


def test_options_are_added_once():
    add_options()
    parse(*OPTIONS)
    assert "_name" in FinetuningConfig.__dataclass_fields__  # fairseq's own field stays


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--freeze-all-but-last 1 --unfreeze-schedule 0:1", "contradict"),
        ("--unfreeze-schedule 0:1,9:2 --max-update 9", "not before the end"),
        ("--unfreeze-schedule 1e:1,9e:2 --max-epoch 8", "not before the end"),
        ("--unfreeze-schedule 0:1,9:some", "write START:GROUPS"),
        ("--freeze-all-but-last 1 --use-bmuf", "--use-bmuf does not keep groups"),
        ("--freeze-all-but-last 1 --ddp-backend slowmo", "slowmo does not keep groups"),
        ("--freeze-all-but-last 1 --zero-sharding os", "--zero-sharding os does not keep"),
        ("--freeze-all-but-last 1 --tpu", "--tpu does not keep groups"),
        ("--lr-per-group 1,2 --lr 0.1,0.2", "needs one --lr"),
    ],
)
def test_refused(words, reason):
    with pytest.raises(UserError, match=reason):
        parse(*words.split())


@pytest.mark.parametrize(
    "scheduler",
    ["fixed", "inverse_sqrt", "cosine", "polynomial_decay", "reduce_lr_on_validation"],
)
def test_warmup_ratio(scheduler):
    words = ["--lr-scheduler", scheduler, "--warmup-ratio", "0.06", "--max-update", "200"]
    if scheduler == "polynomial_decay":
        words += ["--total-num-update", "200"]  # which fairseq requires
    args = parse(*words)
    assert args.warmup_updates == 12
    assert convert_namespace_to_omegaconf(args).lr_scheduler.warmup_updates == 12


def test_warmup_ratio_of_the_slanted_triangle():
    args = parse("--lr-scheduler", "slanted_triangular", "--warmup-ratio", "0.06")
    assert args.cut_frac == 0.06


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--warmup-ratio 0", "between 0 and 1"),
        ("--warmup-ratio 1", "between 0 and 1"),
        ("--warmup-ratio 0.1", "give it as well"),
        ("--warmup-ratio 0.1 --max-update 9 --warmup-updates 3", "contradict"),
        ("--warmup-ratio 0.1 --max-update 9 --warmup-updates=3", "contradict"),
        ("--warmup-ratio 0.1 --lr-scheduler slanted_triangular --cut-frac 0.2", "contradict"),
        ("--warmup-ratio 0.1 --max-update 9 --lr-scheduler tri_stage", "has no warm-up"),
        ("--warmup-ratio 0.1 --max-update 9 --lr-scheduler pass_through", "has no warm-up"),
    ],
)
def test_warmup_ratio_refused(words, reason):
    with pytest.raises(UserError, match=reason):
        parse(*words.split())

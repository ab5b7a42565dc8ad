"""Numbers that fairseq accepts, and that make it fail later or do nothing, are refused at once."""

import dataclasses
import itertools
from argparse import ArgumentParser

import pytest
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_CONFIG_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import user_dir  # noqa: F401  (wraps fairseq's parser and registers what is looked up)
from fairtale.errors import UserError
from fairtale.option_rules import RULES, check_numbers, rule_of
from fairtale.options import short_usage_error
from fairtale.pruning.transformer_hcg_config import TransformerHCGConfig
from tests.compat_helpers import parse

REFUSED = [
    ("--update-freq 0", "--update-freq 0: must be at least 1"),
    ("--update-freq 2,0", "--update-freq 0: must be at least 1"),
    ("--seed -5", "--seed -5: must be a whole number from 0"),
    ("--seed 4294967296", "--seed 4294967296: must be a whole number from 0 to 2^32 - 1"),
    ("--adam-betas 0.9", "--adam-betas 0.9: must be two numbers"),
    ("--adam-betas true", "--adam-betas true: must be two numbers"),
    ("--adam-betas (0.9,1.5)", "--adam-betas (0.9,1.5): must be two numbers"),
    ("--adam-eps -1", "--adam-eps -1"),
    ("--num-workers -1", "--num-workers -1: must be at least 0"),
    ("--data-buffer-size -1", "--data-buffer-size -1"),
    ("--required-batch-size-multiple 0", "--required-batch-size-multiple 0: must be at least 1"),
    ("--batch-size 0", "--batch-size 0"),
    ("--max-tokens -4", "--max-tokens -4"),
    ("--max-tokens-valid 0", "--max-tokens-valid 0"),
    ("--lr -1", "--lr -1.0: must be above 0"),
    ("--lr 0", "--lr 0"),
    ("--clip-norm -1", "--clip-norm -1.0: must be at least 0"),
    ("--weight-decay -1", "--weight-decay -1"),
    ("--max-update -1", "--max-update -1: must be at least 0; 0 sets no limit"),
    ("--max-epoch -1", "--max-epoch -1"),
    ("--log-interval 0", "--log-interval 0"),
    ("--validate-interval 0", "--validate-interval 0"),
    ("--save-interval 0", "--save-interval 0"),
    ("--save-interval-updates -1", "--save-interval-updates -1"),
    ("--keep-interval-updates -2", "--keep-interval-updates -2: must be at least 0, or -1 for all"),
    ("--patience 0", "--patience 0: must be at least 1, or -1 for no limit"),
    ("--decoder-attention-heads 0", "--decoder-attention-heads 0: must be at least 1"),
    ("--decoder-layers -1", "--decoder-layers -1"),
    ("--decoder-embed-dim 0", "--decoder-embed-dim 0"),
    ("--dropout 1.5", "--dropout 1.5: must be at least 0 and less than 1"),
    ("--dropout -0.1", "--dropout -0.1: must be at least 0"),
    ("--attention-dropout 2", "--attention-dropout 2"),
    ("--decoder-layerdrop -1", "--decoder-layerdrop -1"),
    ("--warmup-updates -3 --lr-scheduler inverse_sqrt", "--warmup-updates -3"),
    ("--criterion label_smoothed_cross_entropy --label-smoothing 1", "--label-smoothing 1"),
    ("--bpe sentencepiece", "--bpe sentencepiece: needs --sentencepiece-model"),
    ("--bpe subword_nmt", "--bpe subword_nmt: needs --bpe-codes"),
    ("--seed -5 --lr 0 --batch-size 0", "--seed -5"),
    (
        "--criterion label_smoothed_kl --best-checkpoint-metric accuracy",
        "--best-checkpoint-metric accuracy: is computed only with --report-accuracy",
    ),
    ("--criterion label_smoothed_kl --loss-chunk-mib -1", "--loss-chunk-mib -1"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED)
def test_what_is_refused(words, told):
    with pytest.raises(UserError) as caught:
        parse("--optimizer", "adam", *words.split())
    assert told in str(caught.value)


def test_all_broken_rules_are_told_at_once():
    with pytest.raises(UserError) as caught:
        parse("--seed", "-5", "--lr", "0", "--batch-size", "0")
    assert str(caught.value).count("must be") == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--sample-prompts |||", "--sample-prompts '|||': holds no prompt"),
        ("--sample-temperature 0", "--sample-temperature 0"),
        ("--tokens-per-sample 1", "--tokens-per-sample 1: must be at least 2"),
        ("--prompt-tokens -1", "--prompt-tokens -1"),
    ],
)
def test_options_of_our_tasks(words, told):
    with pytest.raises(UserError) as caught:
        parse("--task", "story_lm", "--arch", "gpt_tiny", *words.split())
    assert told in str(caught.value)


def test_what_is_accepted():
    words = "--lr 0.1,0.2 --update-freq 1,2 --adam-betas (0.9,0.98) --patience 3 --batch-size 4"
    accepted = parse("--optimizer", "adam", *words.split(), "--seed", "0", "--clip-norm", "0")
    assert accepted.update_freq == [1, 2]
    words = "--criterion label_smoothed_kl --best-checkpoint-metric accuracy --report-accuracy"
    assert parse(*words.split()).report_accuracy


def configs():
    """Every dataclass of options that fairseq and the plug-in have."""
    found = [field.default_factory for field in dataclasses.fields(FairseqConfig)]
    found += [field.type for field in dataclasses.fields(FairseqConfig)]
    found += [
        TransformerHCGConfig,
        *TASK_DATACLASS_REGISTRY.values(),
        *MODEL_DATACLASS_REGISTRY.values(),
    ]
    registries = [REGISTRIES[name]["dataclass_registry"] for name in REGISTRIES]
    found += itertools.chain.from_iterable(registry.values() for registry in registries)
    return {kind for kind in found if dataclasses.is_dataclass(kind)}


def test_no_default_is_refused():
    defaults, names = [], set()
    for kind in configs():
        for field in dataclasses.fields(kind):
            names.add(field.name)
            rule, value = rule_of(field.name), field.default
            if rule is None or not isinstance(value, int | float) or isinstance(value, bool):
                continue
            defaults += [] if rule.holds(value) else [(kind.__name__, field.name, value)]
    assert defaults == []
    assert RULES.keys() - names == set()  # the rules are about options that there are


def test_every_architecture_is_accepted():
    refused = []
    for name, set_options in ARCH_CONFIG_REGISTRY.items():
        args = ArgumentParser().parse_args([])
        try:
            set_options(args)
            check_numbers(args)
        except UserError as error:
            refused.append((name, str(error)))
        except Exception:  # noqa: S112  (an architecture that needs further options to be set up)
            continue
    assert refused == []


def test_a_function_is_no_kind_of_value(capsys):
    with pytest.raises(SystemExit):
        short_usage_error(ArgumentParser(), "argument --lr: invalid <lambda> value: 'x'")
    assert capsys.readouterr().err.startswith("error: argument --lr: invalid value: 'x'")

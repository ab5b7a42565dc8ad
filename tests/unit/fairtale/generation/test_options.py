"""Decoding options: each rule of the table, and the options of a sampled text."""

import dataclasses
import math
import subprocess
import sys

import pytest
from fairseq.dataclass.configs import GenerationConfig

from fairtale.errors import UserError
from fairtale.generation.options import (
    DEFAULTS,
    RULES,
    DecodingOptions,
    check_decoding,
    check_sampling,
)

# ------------------------------------------------------------------------------ the table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(temperature=0.0), "--temperature 0.0"),
        (dict(temperature=-1.0), "--temperature -1.0"),
        (dict(temperature=math.inf), "--temperature inf: must be > 0 and finite"),
        (dict(temperature=math.nan), "--temperature nan"),
        (dict(sampling_topk=5), "--sampling-topk 5 needs --sampling"),
        (dict(sampling_topp=0.5), "--sampling-topp 0.5 needs --sampling"),
        (dict(sampling=True, sampling_topk=0), "--sampling-topk 0"),
        (dict(sampling=True, sampling_topk=-5), "--sampling-topk -5"),
        (dict(sampling=True, sampling_topp=0.0), "--sampling-topp 0.0"),
        (dict(sampling=True, sampling_topp=1.5), "--sampling-topp 1.5"),
        (dict(sampling=True, sampling_topk=5, sampling_topp=0.5), "give one of them"),
        (dict(sampling=True, diverse_beam_groups=2, beam=4), "give one of them"),
        (dict(sampling=True, diversity_rate=0.5), "give one of them"),
        (dict(beam=3, diverse_beam_groups=2), "--beam 3 .* --diverse-beam-groups 2"),
        (dict(beam=0), "--beam 0"),
        (dict(beam=2, nbest=3), "--nbest 3 is more than --beam 2"),
        (dict(min_len=-1), "--min-len -1"),
        (dict(no_repeat_ngram_size=-1), "--no-repeat-ngram-size -1"),
        (dict(max_len_b=3, min_len=5), "--max-len-b 3 is less than --min-len 5"),
        (dict(max_len_a=-0.5), "--max-len-a -0.5"),
        (dict(constraints="ordered"), "--constraints"),
        (dict(print_alignment="hard"), "--print-alignment"),
        (dict(block_context_ngram=-2), "--block-context-ngram -2: must not be negative"),
        (
            dict(steer_weight=3.0),
            "--steer-weight 3.0: must be finite, and needs --steer-words FILE",
        ),
        (dict(steer_weight=math.nan, steer_words="f"), "--steer-weight nan"),
        (dict(seed=1 << 64), "--seed 18446744073709551616: must be a 64-bit integer"),
    ],
    ids=lambda x: " ".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_bad_options_are_refused_in_one_line(options, words):
    with pytest.raises(UserError, match=words) as error:
        check_decoding(options)
    assert "\n" not in str(error.value)


def test_each_rule_has_been_broken_above():
    marks = test_bad_options_are_refused_in_one_line.pytestmark
    cases = [options for options, _ in marks[0].args[1]]
    for rule in RULES:
        values = [{**DEFAULTS, **options} for options in cases]
        assert any(not rule.holds(*(v[name] for name in rule.options)) for v in values), rule


def test_what_is_not_given_has_its_default():
    check_decoding({})
    check_decoding(dict.fromkeys(DEFAULTS))
    check_decoding({"min_len": 200, "unheard_of": -1})
    with pytest.raises(UserError, match="--max-len-b 200 is less than --min-len 201"):
        check_decoding({"min_len": 201})


def test_the_defaults_are_those_of_fairseq():
    ours = {"seed", "block_context_ngram", "steer_words", "steer_weight"}
    theirs = {field.name: field.default for field in dataclasses.fields(GenerationConfig)}
    assert {name: theirs.get(name) for name in DEFAULTS} | {
        name: DEFAULTS[name] for name in ours
    } == DEFAULTS


def test_all_mistakes_of_a_text_are_named_at_once():
    with pytest.raises(UserError) as error:
        DecodingOptions(sampling_topk=-3, temperature=-1.0, seed=1 << 64)
    told = str(error.value).split("; ")
    assert [message.split()[0] for message in told] == [
        "--temperature",
        "--sampling-topk",
        "--seed",
    ]


# ------------------------------------------------------------------ options of one text


def test_options_of_a_text_imply_sampling():
    options = DecodingOptions()
    assert (options.topk, options.topp, options.max_len) == (10, -1.0, 60)
    assert DecodingOptions(sampling_topk=3).topk == 3
    assert DecodingOptions(sampling_topk=-1).topk == -1
    for wrong in ({"sampling_topk": 0}, {"sampling_topp": 0.0}, {"sampling_topp": 1.5}):
        with pytest.raises(UserError, match="--sampling-top"):
            DecodingOptions(**wrong)


def test_a_nucleus_is_of_all_tokens():
    assert DecodingOptions(sampling_topp=0.9).topk == -1
    with pytest.raises(UserError, match="--sampling-topk 5 and --sampling-topp 0.9: give one"):
        DecodingOptions(sampling_topk=5, sampling_topp=0.9)
    # top-p 1 does not limit the choice, so it does not contradict top-k
    options = DecodingOptions(sampling_topk=5, sampling_topp=1.0)
    assert (options.topk, options.topp) == (5, -1.0)
    assert DecodingOptions(sampling_topp=1.0).topk == 10


def test_the_least_length_is_compared_with_the_default_length():
    DecodingOptions(min_len=60)
    DecodingOptions(min_len=61, max_len_b=61)
    with pytest.raises(UserError, match="--max-len-b 60 is less than --min-len 61"):
        DecodingOptions(min_len=61)
    with pytest.raises(UserError, match="--max-len-b 60 is less than --min-len 61"):
        check_sampling({"min_len": 61, "max_len_b": None})


def test_options_cannot_be_changed_unchecked():
    options = DecodingOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.min_len = -1
    with pytest.raises(UserError, match="--min-len -1"):
        dataclasses.replace(options, min_len=-1)


def test_fairseq_is_given_what_was_settled():
    args = DecodingOptions(
        max_len_b=7, min_len=2, sampling_topp=0.5, temperature=2.0, no_repeat_ngram_size=3, seed=1
    ).as_generation_args()
    assert vars(args) == {
        "beam": 1,
        "nbest": 1,
        "sampling": True,
        "sampling_topk": -1,
        "sampling_topp": 0.5,
        "temperature": 2.0,
        "no_repeat_ngram_size": 3,
        "min_len": 2,
        "max_len_a": 0,
        "max_len_b": 7,
    }
    check_decoding(vars(DecodingOptions().as_generation_args()))


def test_a_mistake_is_reported_without_torch_and_fairseq():
    code = (
        "import sys, fairtale.generation.options\n"
        "print([m for m in ('torch', 'fairseq', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr

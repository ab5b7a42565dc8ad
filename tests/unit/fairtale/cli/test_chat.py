"""Options of ``fairtale chat``: what is refused, and what follows from them."""

import argparse

import pytest

from fairtale.cli.chat import add_arguments, check_options, reply_length
from fairtale.errors import UserError


def parsed(options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["model.pt", *options.split()])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--topk -1", "--topk -1: at least 1, or 0 for all"),
        ("--topp 0", "--topp 0.0: a probability"),
        ("--topp 1.5", "--topp 1.5: a probability"),
        ("--topp nan", "--topp nan: a probability"),
        ("--topk 5 --topp 0.9", "--topk 5 --topp 0.9: give one"),
        ("--temperature 0", "--temperature 0.0: must be > 0"),
        ("--temperature inf", "--temperature inf: "),
        ("--min-len 20 --max-len 10", "--min-len 20 is more than --max-len 10"),
        ("--min-len 61", "--min-len 61 is more than --max-len 60"),
        ("--min-len -1", "--min-len -1: must not be negative"),
        ("--no-repeat-ngram-size -1", "--no-repeat-ngram-size -1"),
        ("--block-context-ngram -2", "--block-context-ngram -2"),
        ("--steer-weight 3", "--steer-weight 3.0: a finite number, together with --steer-words"),
        ("--steer-weight nan --steer-words f", "--steer-weight nan"),
        (f"--seed {1 << 64}", "--seed 18446744073709551616: a number of 64 bits"),
        ("--topk -3 --temperature -1", "--topk -3: at least 1, or 0 for all; --temperature -1.0"),
    ],
)
def test_refused_by_name(options, told):
    with pytest.raises(UserError) as error:
        check_options(parsed(options))
    assert str(error.value).startswith(told)


def test_a_reply_has_at_least_one_token(capsys):
    with pytest.raises(SystemExit):
        parsed("--max-len 0")
    assert "--max-len: '0' is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "topk"),
    [("", 10), ("--topp 0.9", 0), ("--topk 0 --topp 0.9", 0), ("--topk 3 --topp 1", 3)],
)
def test_the_nucleus_is_of_all_tokens(options, topk):
    args = parsed(options)
    check_options(args)
    assert args.topk == topk


def test_replies_are_no_longer_than_what_was_learned():
    assert reply_length(parsed(""), 63) == 60
    assert reply_length(parsed(""), 19) == 19
    assert reply_length(parsed("--max-len 19"), 19) == 19
    for options in ("--max-len 20", "--min-len 20"):
        with pytest.raises(UserError, match=f"{options}: replies of at most 19 tokens"):
            reply_length(parsed(options), 19)

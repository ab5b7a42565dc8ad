"""Options of ``fairtale chat``: what is refused, and what follows from them."""

import argparse
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fairtale.cli.chat import RENAMED_OPTIONS, add_arguments, decoding_options, run
from fairtale.cli.main import refuse_old_names
from fairtale.errors import UserError
from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session


def parsed(options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["model.pt", *options.split()])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--sampling-topk 0", "--sampling-topk 0: must be at least 1, or -1 for no limit"),
        ("--sampling-topp 0", "--sampling-topp 0.0: must be above 0"),
        ("--sampling-topp 1.5", "--sampling-topp 1.5: must be above 0"),
        ("--sampling-topp nan", "--sampling-topp nan: must be above 0"),
        (
            "--sampling-topk 5 --sampling-topp 0.9",
            "--sampling-topk 5 and --sampling-topp 0.9: give one",
        ),
        ("--temperature 0", "--temperature 0.0: must be > 0"),
        ("--temperature inf", "--temperature inf: "),
        ("--min-len 20 --max-len-b 10", "--max-len-b 10 is less than --min-len 20"),
        ("--min-len 61", "--max-len-b 60 is less than --min-len 61"),
        ("--min-len -1", "--min-len -1: must not be negative"),
        ("--no-repeat-ngram-size -1", "--no-repeat-ngram-size -1"),
        ("--block-context-ngram -2", "--block-context-ngram -2"),
        ("--steer-weight 3", "--steer-weight 3.0: must be finite, and needs --steer-words"),
        ("--steer-weight nan --steer-words f", "--steer-weight nan"),
        (f"--seed {1 << 64}", "--seed 18446744073709551616: must be a 64-bit integer"),
        (
            "--sampling-topk -3 --temperature -1 --steer-weight 2",
            "--temperature -1.0: must be > 0 and finite (--sampling-topk 1 is greedy); "
            "--sampling-topk -3: must be at least 1, or -1 for no limit; --steer-weight 2.0",
        ),
    ],
)
def test_refused_by_name(options, told):
    with pytest.raises(UserError) as error:
        decoding_options(parsed(options))
    assert str(error.value).startswith(told)


def test_a_reply_has_at_least_one_token(capsys):
    with pytest.raises(SystemExit):
        parsed("--max-len-b 0")
    assert "--max-len-b: '0' is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "topk"),
    [
        ("", 10),
        ("--sampling-topp 0.9", -1),
        ("--sampling-topk -1 --sampling-topp 0.9", -1),
        ("--sampling-topk 3 --sampling-topp 1", 3),
    ],
)
def test_the_nucleus_is_of_all_tokens(options, topk):
    assert decoding_options(parsed(options)).topk == topk


def test_options_reach_the_model():
    given = "--max-len-b 9 --min-len 2 --no-repeat-ngram-size 4 --block-context-ngram 2 --seed 7"
    found = decoding_options(parsed(f"{given} --temperature 0.5 --sampling-topk 4"))
    assert found == DecodingOptions(9, 2, 4, -1.0, 0.5, 4, 2, 7)
    assert decoding_options(parsed("")) == DecodingOptions(no_repeat_ngram_size=3)


def test_old_names_are_refused_with_the_new_one():
    for old, new in (
        ("--topk", "--sampling-topk"),
        ("--topp", "--sampling-topp"),
        ("--max-len", "--max-len-b"),
    ):
        with pytest.raises(UserError, match=f"^{old} is now called {new}$"):
            refuse_old_names(["model.pt", old, "5"], RENAMED_OPTIONS)


def test_a_model_of_queries_does_not_chat(monkeypatch, capsys):
    """Its replies would be questions to which the user's line is an answer."""
    session = SimpleNamespace(task=SimpleNamespace(is_reverse=True))
    monkeypatch.setattr(Session, "load", lambda *_, **__: session)
    with pytest.raises(UserError, match="model.pt: trained with --reverse, so it predicts queries"):
        run(parsed(""))


def test_lines_are_edited_at_a_terminal():
    """``input`` uses readline as soon as it is imported."""
    code = "import sys; from fairtale.cli import chat; chat._edit_lines(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "readline" in done.stdout.split(), done.stderr

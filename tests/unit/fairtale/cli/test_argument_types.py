"""Types of arguments."""

import argparse

import pytest

from fairtale.cli.argument_types import fraction, positive_int


def test_what_is_accepted():
    assert positive_int("12") == 12
    assert fraction("0") == 0.0
    assert fraction("0.25") == 0.25


@pytest.mark.parametrize(
    ("kind", "text", "rule"),
    [
        (positive_int, "0", "'0' is not a whole number of at least 1"),
        (positive_int, "-3", "'-3' is not a whole number of at least 1"),
        (fraction, "1", "'1' is not a number of at least 0 and below 1"),
        (fraction, "-0.1", "'-0.1' is not a number"),
        (fraction, "nan", "'nan' is not a number"),
    ],
)
def test_what_is_refused(kind, text, rule):
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{rule}"):
        kind(text)


@pytest.mark.parametrize("text", ["1.5", "many", ""])
def test_argparse_reports_what_is_no_number(text, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=positive_int)
    with pytest.raises(SystemExit):
        parser.parse_args(["--n", text])
    assert f"argument --n: invalid positive_int value: {text!r}" in capsys.readouterr().err

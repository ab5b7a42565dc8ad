"""Types of command-line arguments for argparse."""

import argparse


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text)  # argparse reports the ValueError of other text
    if value < 1:
        raise _argument_error(text, "a whole number of at least 1")
    return value


def fraction(text: str) -> float:
    """Parse a number in [0, 1)."""
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise _argument_error(text, "a number of at least 0 and below 1")
    return value


def _argument_error(text: str, rule: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} is not {rule}")

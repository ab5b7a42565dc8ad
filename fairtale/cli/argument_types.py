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


def share(text: str) -> float:
    """Parse a number in [0, 1]."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise _argument_error(text, "a number from 0 to 1")
    return value


def fields(text: str) -> tuple[str, str]:
    """Parse two names, or numbers of columns, separated by a comma."""
    names = tuple(name.strip() for name in text.split(","))
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise _argument_error(text, "two names or numbers separated by a comma")
    return names[0], names[1]


def _argument_error(text: str, rule: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} is not {rule}")

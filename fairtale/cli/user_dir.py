"""Print the folder of the plug-in, to be given to fairseq's commands.

fairseq-train DATA --user-dir "$(fairtale user-dir)" ...
"""

import argparse

from ..plugin import user_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the verb takes no arguments."""


def run(args: argparse.Namespace) -> None:
    """Print the folder."""
    print(user_dir())

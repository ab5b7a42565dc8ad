"""Print the folder of the plug-in, for the option --user-dir of fairseq's commands.

fairseq-train DATA --user-dir "$(fairtale user-dir)" ...
"""

import argparse

from ..plugin import user_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the verb has no options."""


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    print(user_dir())

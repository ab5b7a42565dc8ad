"""Print the folder of the plug-in, to be given to fairseq's commands.

fairseq-train DATA --user-dir "$(fairtale user-dir)" ...
"""

from ..plugin import user_dir


def add_arguments(parser):
    pass


def run(args):
    print(user_dir())

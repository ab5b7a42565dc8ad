"""fairseq as it is on disk, to show that a fault is still there, and its option parser."""

import importlib.util

from fairseq import options


def pristine(name):
    """Return a module of fairseq as it is on disk, under another name."""
    spec = importlib.util.find_spec(name)
    copy = importlib.util.spec_from_file_location(f"pristine_{name.replace('.', '_')}", spec.origin)
    module = importlib.util.module_from_spec(copy)
    copy.loader.exec_module(module)
    return module


def parse(*words):
    """Parse a command line of ``fairseq-train``; of options given twice the later one wins."""
    parser = options.get_training_parser()
    needed = ["data", "--task", "language_modeling", "--arch", "transformer_lm"]
    return options.parse_args_and_arch(parser, [*needed, *words])

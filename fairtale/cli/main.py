"""``fairtale VERB``: find the verb, import its file alone, run it, and report its errors.

A verb's file has ``add_arguments(parser)`` and ``run(args)``, which returns an exit status or None.
It may declare ``RENAMED_OPTIONS``, from old names of options to new ones: an old name on the
command line is refused with the new one. Abbreviations of options are accepted, as always with
argparse.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from ..errors import UserError

# verb -> (module of this folder, what it does). The help is kept here so that
# `fairtale --help` imports no verb.
VERBS = {
    "stories": (".stories", "clean story files and split them into train, valid and test"),
    "dialogs": (".dialogs", "clean dialog corpora and split them into train, valid and test"),
    "bitext": (".bitext", "clean and tokenise parallel corpora for translation"),
    "prepare stories": (".prepare_stories", "story files to binarised data, all steps in one"),
    "prepare dialogs": (".prepare_dialogs", "dialog corpora to binarised data, all steps in one"),
    "prepare bitext": (".prepare_bitext", "parallel corpora to binarised data, all steps in one"),
    "spm train": (".spm_train", "train a SentencePiece model and write fairseq's dict.txt"),
    "spm encode": (".spm_encode", "text to pieces (or back with --decode), in parallel"),
    "launch": (".launch", "run fairseq-train on this machine's devices, by torchrun if several"),
    "score-dialog": (".score_dialog", "BLEU, chrF, distinct, length and F1 of replies"),
    "compare-dialogs": (".compare_dialogs", "dialog models in one table: bits/token, replies"),
    "score-translation": (".score_translation", "BLEU and chrF2 of test sets, with signatures"),
    "log outputs": (".log_outputs", "texts out of a log of fairseq-generate or -interactive"),
    "log validation": (".log_validation", "what a validation has found, out of its log"),
    "log progress": (".log_progress", "how a training gets on: its log on standard input"),
    "perplexity": (".perplexity", "perplexity of texts under a local Hugging Face model"),
    "chat": (".chat", "talk to a dialog model at the terminal"),
    "prune": (".prune", "remove attention heads, feed-forward units and layers of a transformer"),
    "average": (".average", "average the weights of several checkpoints"),
    "prune-report": (".prune_report", "size, BLEU, chrF and speed of pruned models"),
    "transformer-options": (".transformer_options", "options that rebuild a transformer's shape"),
    "plot": (".plot", "training and validation curves of fairseq runs, to PNG"),
    "plot-gates": (".plot_gates", "how gates closed: animation and curves of runs, to GIF and PNG"),
    "user-dir": (".user_dir", "print the folder that fairseq's --user-dir takes"),
}

EXIT_USER_ERROR = 2  # as argparse
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def _version() -> str:
    from importlib import metadata  # takes half as long to import as all the rest of `--help`

    try:
        return metadata.version("fairtale")
    except metadata.PackageNotFoundError:
        return "(not installed, run from its folder)"


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: fairtale VERB [options]   (fairtale VERB --help explains one)", ""]
    lines += [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(lines + ["", "  --version, --help"])


def _find_verb(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the verb and its arguments; the longest match wins, so ``spm train`` is one verb.

    Raises:
        UserError: there is no such verb.
    """
    for length in (2, 1):
        verb = " ".join(argv[:length])
        if verb in VERBS:
            return verb, argv[length:]
    asked = argv[0]
    family = [verb for verb in VERBS if verb.split()[0] == asked]
    if family:
        raise UserError(f"fairtale {asked}: say which: {', '.join(family)}")
    raise UserError(f"fairtale: no verb {asked!r}; there are: {', '.join(VERBS)}")


def refuse_old_names(words: Iterable[str], renamed: Mapping[str, str]) -> None:
    """Refuse the old names of options.

    Done before parsing, since argparse would take an old name for an abbreviation of a new one that
    begins with it.

    Args:
        words: the command line of a verb.
        renamed: new names by old ones, such as ``{"--out": "--output"}``.

    Raises:
        UserError: an old name is used; the message says the new one.
    """
    for word in words:
        if word == "--":
            return  # no options follow
        option = word.split("=")[0]
        if option in renamed:
            raise UserError(f"{option} is now called {renamed[option]}")


def _start_logging() -> None:
    # Results go to stdout, all other messages to stderr, so that pipes stay clean.
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)


def run_verb(argv: Sequence[str]) -> int:
    """Parse and run one verb, and return its exit status; errors are left to :func:`main`."""
    verb, rest = _find_verb(argv)
    module_name, text = VERBS[verb]
    module = importlib.import_module(module_name, __package__)
    parser = argparse.ArgumentParser(
        prog=f"fairtale {verb}",
        description=module.__doc__ or text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    refuse_old_names(rest, getattr(module, "RENAMED_OPTIONS", {}))
    return module.run(parser.parse_args(rest)) or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console command and return its exit status: 2 for a mistake that people can mend."""
    argv = sys.argv[1:] if argv is None else list(argv)
    _start_logging()
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(_overview())
            return 0 if argv else EXIT_USER_ERROR
        if argv[0] == "--version":
            print(f"fairtale {_version()}")
            return 0
        status = run_verb(argv)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has ended (`| head`). Point stdout at nothing, or Python
        # reports a second error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        # No such file, no permission, disk full: the system's own message says what is wrong.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())

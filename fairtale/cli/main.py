"""The command ``fairtale VERB``: import the module of a verb, run it, and report errors.

The module of a verb defines ``add_arguments(parser)`` and ``run(args)``, which returns an exit
status or None. It may define ``RENAMED_OPTIONS``, a mapping from old to new names of options: an
old name on the command line is refused with an error that gives the new name. Options may be
abbreviated, as usual with argparse.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from ..errors import UserError, one_line
from .usage import short_errors

# verb -> (module, help text). The help texts are defined here, so that `fairtale --help` does not
# import the verbs.
VERBS = {
    "stories": (".stories", "clean story files and split them into train, valid and test"),
    "dialogs": (".dialogs", "clean dialog corpora and split them into train, valid and test"),
    "bitext": (".bitext", "clean and tokenise parallel corpora for translation"),
    "documents": (".documents", "clean works and split them into train, valid and test"),
    "mongo import": (".mongo_import", "fill collections of a MongoDB database with documents"),
    "mongo info": (".mongo_info", "show the collections of a MongoDB database"),
    "prepare stories": (".prepare_stories", "make binarised data from story files"),
    "prepare dialogs": (".prepare_dialogs", "make binarised data from dialog corpora"),
    "prepare documents": (".prepare_documents", "make binarised data from works"),
    "prepare bitext": (".prepare_bitext", "make binarised data from parallel corpora"),
    "spm train": (".spm_train", "train a SentencePiece model and write fairseq's dict.txt"),
    "spm encode": (".spm_encode", "encode text as pieces, or decode pieces with --decode"),
    "bpe train": (".bpe_train", "train a byte-level BPE tokenizer and write fairseq's dict.txt"),
    "bpe encode": (".bpe_encode", "encode text as byte-level pieces, or decode with --decode"),
    "gpt2 import": (".gpt2_import", "make a checkpoint from a Hugging Face folder of a GPT-2"),
    "gpt2 export": (".gpt2_export", "write a checkpoint for transformers or CTranslate2"),
    "launch": (".launch", "run fairseq-train on this machine's devices"),
    "score-dialog": (".score_dialog", "score replies: BLEU, chrF, distinct-1/2, length, F1"),
    "compare-dialogs": (".compare_dialogs", "compare dialog models in one table"),
    "compare-finetuning": (".compare_finetuning", "compare ways to fine-tune in one table"),
    "score-translation": (".score_translation", "score translations of test sets: BLEU, chrF2"),
    "log outputs": (".log_outputs", "print the texts in a log of fairseq-generate or -interactive"),
    "log validation": (".log_validation", "print the results of validations in a log"),
    "log progress": (".log_progress", "summarise the log of a running training"),
    "perplexity": (".perplexity", "measure texts' perplexity under a local Hugging Face model"),
    "chat": (".chat", "chat with a dialog model at the terminal"),
    "serve": (".serve", "serve checkpoints over HTTP, with a page to talk"),
    "sample": (".sample", "sample continuations of the prompts in a file"),
    "gpt2 adapter": (".gpt2_adapter", "save the adapter of a checkpoint in PEFT's format"),
    "gpt2 merge": (".gpt2_merge", "merge an adapter into the weights of its base"),
    "prune": (".prune", "remove attention heads, feed-forward units and layers of a transformer"),
    "average": (".average", "average the weights of several checkpoints"),
    "consolidate": (".consolidate", "make one checkpoint of those of --save-sharded"),
    "prune-report": (".prune_report", "compare size, BLEU, chrF and speed of pruned models"),
    "transformer-options": (".transformer_options", "print the options of a transformer's shape"),
    "plot": (".plot", "draw training and validation curves of fairseq runs (PNG)"),
    "plot-gates": (".plot_gates", "draw the gates of training runs over time (GIF, PNG)"),
    "user-dir": (".user_dir", "print the folder for fairseq's option --user-dir"),
}

EXIT_USER_ERROR = 2  # the status of argparse
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the status that shells report
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def _version() -> str:
    from importlib import metadata  # imported here because the import is slow

    try:
        return metadata.version("fairtale")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: fairtale VERB [options]   (fairtale VERB --help describes a verb)", ""]
    lines += [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(lines + ["", "  --version, --help"])


def _find_verb(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the verb and its arguments; a verb may consist of two words, such as ``spm train``.

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
        raise UserError(f"fairtale {asked}: give one of: {', '.join(family)}")
    raise UserError(f"fairtale: no verb {asked!r}; give one of: {', '.join(VERBS)}")


def refuse_old_names(words: Iterable[str], renamed: Mapping[str, str]) -> None:
    """Refuse the old names of options.

    Call this before parsing: argparse would accept an old name as an abbreviation of a new name
    that begins with it.

    Args:
        words: the command line of a verb.
        renamed: a mapping from old to new names, such as ``{"--out": "--output"}``.

    Raises:
        UserError: an old name is used; the message gives the new name.
    """
    for word in words:
        if word == "--":
            return  # only positional arguments follow
        option = word.split("=")[0]
        if option in renamed:
            raise UserError(f"{option} is now called {renamed[option]}")


def _start_logging() -> None:
    # Write results to stdout and all other messages to stderr, so that output can be piped.
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)


def _let_waiting_threads_sleep() -> None:
    """Let OpenMP's threads sleep while they wait, in the verb and in the commands that it runs.

    torch reads the variable when it is imported, which verbs do after this. On cores that are
    shared with other work, threads that wait actively made decoding ten times as slow or more.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_verb(argv: Sequence[str]) -> int:
    """Parse the command line of a verb, run it, and return its exit status."""
    verb, rest = _find_verb(argv)
    module_name, text = VERBS[verb]
    module = importlib.import_module(module_name, __package__)
    parser = argparse.ArgumentParser(
        prog=f"fairtale {verb}",
        description=module.__doc__ or text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    short_errors(parser)
    module.add_arguments(parser)
    refuse_old_names(rest, getattr(module, "RENAMED_OPTIONS", {}))
    return module.run(parser.parse_args(rest)) or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console command and return its exit status, which is 2 for an error of the user."""
    argv = sys.argv[1:] if argv is None else list(argv)
    _start_logging()
    _let_waiting_threads_sleep()
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
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has closed the pipe (`| head`). Redirect stdout to the null device,
        # because otherwise Python reports a second error when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        # Missing files, missing permissions, a full disk: print the system's own message.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())

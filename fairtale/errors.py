"""The error that people see, and how they see it.

Imports neither torch nor fairseq, so that the ``fairtale`` command starts fast.
"""

import difflib
import os
import re
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

_FILE_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class UserError(ValueError):
    """A mistake in an option, a file or a text that a person can mend.

    The message is one line: option, value received, rule, remedy. Commands print it
    without a traceback (see :func:`install_error_hook`) and exit with a status that is not 0.
    """


def install_error_hook() -> None:
    """Show people's mistakes as one line; ``FAIRTALE_TRACEBACK=1`` shows everything.

    Shown as one line are :class:`UserError` (also where fairseq has wrapped it in an exception of
    its own), missing files, and what fairseq raises on purpose, with a text. The exit status is 1,
    as for any error.
    """
    original = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = _in_one_line(error, trace)
        if message is None or os.environ.get("FAIRTALE_TRACEBACK"):
            original(kind, error, trace)
        else:
            sys.stdout.flush()
            print(f"error: {' '.join(message.split())}", file=sys.stderr)

    sys.excepthook = hook


def _in_one_line(error: BaseException, trace: TracebackType | None) -> str | None:
    """Return what to tell a person about ``error``, or None if it is a bug."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    frames = traceback.extract_tb(trace)
    if error.args and frames and not isinstance(error, LookupError):
        by_fairseq = {"fairseq", "fairseq_cli"} & set(Path(frames[-1].filename).parts)
        line = frames[-1].line or ""
        on_purpose = isinstance(error, AssertionError) or line.startswith("raise ")
        if by_fairseq and on_purpose:
            exploded = isinstance(error, FloatingPointError) and "Nan/Inf" in str(error)
            return f"{error}{': try a lower --lr, or --clip-norm 1' if exploded else ''}"
    if isinstance(error, _FILE_ERRORS) or isinstance(error, OSError) and "not found" in str(error):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"the input is not valid UTF-8: {error}"
    return None


# ------------------------------------------------------------------------- command lines


def short_usage_error(parser, message):
    """End a command with one line, where argparse writes two hundred before it.

    A long list of choices is replaced by those that resemble what was given.
    """
    known, start = [], re.search(r" \(choose from (.*)\)", message, re.DOTALL)
    wrong = re.search(r"(?:invalid choice: '?|unrecognized arguments: )([^' ]+)", message)
    if start and len(start[1]) > 400:
        known = [name.strip(" '") for name in start[1].split(",")]
        message = message[: start.start()]
    elif not start:
        known = list(parser._option_string_actions)
    near = difflib.get_close_matches(wrong[1], known) if wrong else []
    remedy = f"did you mean {' or '.join(near)}? " if near else ""
    parser.exit(2, f"error: {message} ({remedy}--help lists what there is)\n")


def check_words(parser, words):
    """Refuse a command line on which an architecture or a checkpoint is missing.

    Args:
        parser: of a fairseq command.
        words: its command line.
    """

    def given(*options):
        return any(word.split("=")[0] in options for word in words)

    if given("-h", "--help"):
        return
    if "--arch" in parser._option_string_actions and parser.get_default("arch") is None:
        if not given("--arch", "-a"):
            raise UserError("--arch is missing: name an architecture, for stories --arch gpt_tiny")
    if "--path" in parser._option_string_actions and not given("--path"):
        raise UserError("--path is missing: name the checkpoint of a trained model")


def check_options(args, cuda):
    """Refuse what fairseq would stumble over, or would take for something else.

    Args:
        args: the parsed options of a fairseq command; some lack most of them.
        cuda: there is a GPU.
    """
    restore = getattr(args, "restore_file", None)
    if restore not in (None, "checkpoint_last.pt") and "://" not in restore:
        if not os.path.exists(restore) and not getattr(args, "checkpoint_suffix", ""):
            raise UserError(f"--restore-file {restore}: no such file, it would train from scratch")
    if getattr(args, "write_checkpoints_asynchronously", False) and not find_spec("iopath"):
        raise UserError(
            "--write-checkpoints-asynchronously needs the package iopath: pip install iopath, or "
            "leave it out"
        )
    trains, gpu = hasattr(args, "update_freq"), cuda and not getattr(args, "cpu", False)
    if trains and not gpu and getattr(args, "fp16", False):
        if not (args.memory_efficient_fp16 or args.fp16_no_flatten_grads):
            raise UserError("--fp16 trains on a GPU only: use --bf16 on a CPU, or leave it out")

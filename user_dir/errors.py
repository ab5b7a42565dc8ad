"""The error that people see, and how they see it."""

import os
import sys
import traceback
from pathlib import Path

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


def install_error_hook():
    """Show people's mistakes as one line; ``FAIRTALE_TRACEBACK=1`` shows everything.

    One line are: :class:`UserError` (also where fairseq has wrapped it in an exception of its
    own), missing files, and fairseq's own checks of options and checkpoints (assertions with a
    text). The exit status is 1, as for any error.
    """
    original = sys.excepthook

    def hook(kind, error, trace):
        message = _in_one_line(error, trace)
        if message is None or os.environ.get("FAIRTALE_TRACEBACK"):
            original(kind, error, trace)
        else:
            sys.stdout.flush()
            print(f"error: {message}", file=sys.stderr)

    sys.excepthook = hook


def _in_one_line(error, trace):
    """Return what to tell a person about ``error``, or None if it is a bug."""
    cause = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    frames = traceback.extract_tb(trace)
    if isinstance(error, AssertionError) and error.args and frames:
        by_fairseq = {"fairseq", "fairseq_cli"} & set(Path(frames[-1].filename).parts)
        return str(error) if by_fairseq else None
    if isinstance(error, _FILE_ERRORS) or isinstance(error, OSError) and "not found" in str(error):
        return str(error)
    return None

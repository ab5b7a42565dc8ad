"""Define the error for mistakes of the user, and report it in one line.

This module imports neither torch nor fairseq, so that the ``fairtale`` command starts fast.
"""

import errno
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

_FILE_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
_DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO)


class UserError(ValueError):
    """A mistake in an option, a file or a text that the user can correct.

    The message is one line: option, given value, rule, remedy. Commands print it without a
    traceback (see :func:`install_error_hook`) and exit with a nonzero status.
    """


def one_line(message: str) -> str:
    """Return a message in one line, with control characters of foreign names escaped.

    A name in a damaged or malicious file may contain line breaks and commands for the terminal.
    """
    joined = " ".join(message.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def reason_of_disk(error: BaseException | None) -> str | None:
    """Return why a file cannot be written, or None if the error has another cause.

    torch turns the system's error into one of its own, which has it as context.
    """
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def install_error_hook() -> None:
    """Print errors that the user can correct in one line instead of a traceback.

    These errors are :class:`UserError` (also if fairseq has wrapped it in another exception),
    missing or inaccessible files, input that is not UTF-8, and the exceptions that fairseq itself
    raises with a message. The exit status is 1, as for any error. With ``FAIRTALE_TRACEBACK=1`` in
    the environment, the traceback is printed as usual.
    """
    original = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = _in_one_line(error, trace)
        if message is None or os.environ.get("FAIRTALE_TRACEBACK"):
            original(kind, error, trace)
        else:
            sys.stdout.flush()
            print(f"error: {one_line(message)}", file=sys.stderr)

    sys.excepthook = hook


def _in_one_line(error: BaseException, trace: TracebackType | None) -> str | None:
    """Return the one-line message for ``error``, or None if it needs a traceback."""
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
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return str(error)
    if isinstance(error, _FILE_ERRORS) or isinstance(error, OSError) and "not found" in str(error):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"the input is not valid UTF-8: {error}"
    return None

"""The error that people see, and how they see it.

Imports neither torch nor fairseq, so that the ``fairtale`` command starts fast.
"""

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

"""Run another program as a part of a verb, and end it when the verb is ended."""

import signal
import subprocess
from collections.abc import Sequence
from typing import BinaryIO

_SECONDS_TO_STOP = 5.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_to_end(command: Sequence[str], output: BinaryIO) -> int:
    """Run a command and return its exit status; it ends if this process is interrupted.

    A signal that this process handles by an exception is handled only when the command has been
    started: in between, nobody would know its process, and it would be left running.

    Args:
        command: the program and its arguments.
        output: file for its standard output and error output.
    """
    come: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: come.append(number))
    try:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        for late in come:
            signal.raise_signal(late)
        return process.wait()
    except BaseException:
        _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command by an interrupt, so that it ends its own worker processes first."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""A program that a verb runs ends with the verb."""

import os
import signal
import subprocess
import tempfile

import pytest

from fairtale.cli.child_process import run_to_end


def test_the_status_and_the_output():
    with tempfile.TemporaryFile() as output:
        assert run_to_end(["sh", "-c", "echo said; echo told >&2; exit 3"], output) == 3
        output.seek(0)
        assert output.read() == b"said\ntold\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_program_is_started(number, monkeypatch):
    """The exception of its handler comes when the program is known and can be ended."""
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            os.kill(os.getpid(), number)

    class Ended(BaseException):
        pass

    def end(*_):
        raise Ended

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(number, end)
    try:
        with tempfile.TemporaryFile() as output, pytest.raises(Ended):
            run_to_end(["sleep", "60"], output)
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, before)
    assert started[0].returncode is not None

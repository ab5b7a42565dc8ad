"""How people see errors: one line for a mistake, a traceback for a bug."""

import sys

import torch
from fairseq.data import iterators

from fairtale import compat
from fairtale.errors import UserError

compat.install()


def hook_output(error, capsys, monkeypatch, traceback=False):
    if traceback:
        monkeypatch.setenv("FAIRTALE_TRACEBACK", "1")
    else:
        monkeypatch.delenv("FAIRTALE_TRACEBACK", raising=False)
    try:
        raise error
    except BaseException:
        sys.excepthook(*sys.exc_info())
    return capsys.readouterr().err


def test_error_hook(capsys, monkeypatch):
    assert hook_output(UserError("a\nb"), capsys, monkeypatch) == "error: a b\n"
    assert "Traceback" in hook_output(UserError("a"), capsys, monkeypatch, traceback=True)
    foreign = UserError("no tensor \x1b[31mred\x00")
    assert hook_output(foreign, capsys, monkeypatch) == "error: no tensor \\x1b[31mred\\x00\n"
    wrapped = Exception("fairseq's")
    wrapped.__context__ = UserError("mine")
    assert hook_output(wrapped, capsys, monkeypatch) == "error: mine\n"
    missing = FileNotFoundError(2, "No such file or directory", "a.txt")
    assert hook_output(missing, capsys, monkeypatch).startswith("error: [Errno 2] No such file")
    for bug in (ValueError("x"), KeyError("x"), AssertionError("x"), RuntimeError("x")):
        assert "Traceback" in hook_output(bug, capsys, monkeypatch)


def test_error_hook_shows_what_fairseq_raises_on_purpose(capsys, monkeypatch):
    def output(call):
        try:
            call()
        except Exception:
            sys.excepthook(*sys.exc_info())
        return capsys.readouterr().err

    monkeypatch.delenv("FAIRTALE_TRACEBACK", raising=False)
    empty = iterators.EpochBatchIterator(torch.utils.data.TensorDataset(), list, [])
    assert output(lambda: empty.first_batch).startswith("error: The dataset is empty. ")
    assert "Traceback" in output(lambda: iterators.CountingIterator(5))  # a bug within fairseq

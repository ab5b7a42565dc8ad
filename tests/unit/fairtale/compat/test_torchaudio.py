"""The work-around for torchaudio."""

import importlib
import sys
from types import ModuleType

import pytest

from fairtale.compat.torchaudio import hide_torchaudio


def test_torchaudio_is_not_found(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    hide_torchaudio()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torchaudio")


def test_what_is_loaded_stays(monkeypatch):
    loaded = ModuleType("torchaudio")
    monkeypatch.setitem(sys.modules, "torchaudio", loaded)
    hide_torchaudio()
    assert sys.modules["torchaudio"] is loaded

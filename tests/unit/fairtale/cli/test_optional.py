"""Optional dependencies."""

import json
import sys

import pytest

from fairtale.cli import optional
from fairtale.errors import UserError


def test_a_missing_module_is_named_with_its_install_command():
    assert optional.require("json", extra=None) is json
    with pytest.raises(UserError, match="^no_such_thing is .*: pip install 'fairtale.plots.'$"):
        optional.require("no_such_thing", extra="plots")
    with pytest.raises(UserError, match="pip install 'no_such_thing'$"):
        optional.require("no_such_thing", extra=None)
    with pytest.raises(UserError, match="pip install 'its-package'$"):
        optional.require("no_such_thing.part", extra=None, package="its-package")


def test_a_module_that_is_broken_inside_is_not_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("import no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        optional.require("broken_inside", extra="plots")


def test_transformers_is_imported_without_torchaudio(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    seen = []
    monkeypatch.setattr(
        optional, "require", lambda *args, **kwargs: seen.append(sys.modules["torchaudio"])
    )
    optional.require_transformers()
    assert seen == [None]

"""Who may import whom inside ``user_dir``: a room knows only what stands left of it.

    errors < modules < compat < data | optim | pruning < models
           < criterions | generation | interop < tasks < cli | serving

Rooms joined by ``|`` do not know each other. ``errors.py`` is a file beside the
rooms; ``__init__.py`` may import all. Imports inside are relative.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "user_dir"
ORDER = (
    {"errors"},
    {"modules"},
    {"compat"},
    {"data", "optim", "pruning"},
    {"models"},
    {"criterions", "generation", "interop"},
    {"tasks"},
    {"cli", "serving"},
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FILES = {"__init__", "errors"}  # what lies beside the rooms
MAX_LINES = 500


def _imported(node, module):
    """Dotted names from the root that an import statement of ``module`` may load, and whether it
    is a relative import. ``from .x import y`` names ``x.y``, since ``y`` may be a file.
    """
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names], False
    # The package of a module is its own name less the last part; each further dot climbs.
    base = module.split(".")[: -node.level] if node.level else []
    base += node.module.split(".") if node.module else []
    return [".".join([*base, alias.name]) for alias in node.names], bool(node.level)


def _complaint(name, importer, relative):
    """Why the file whose parts below ``user_dir`` are ``importer`` may not load ``name``."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    if not relative:
        return f"imports {name} absolutely; imports inside are relative"
    if importer == ["__init__"]:
        return None
    target = parts[1] if len(parts) > 1 else ""
    if target not in LEVEL:
        return f"imports {name}, which is no room of the house"
    if importer[0] == target or LEVEL[target] < LEVEL[importer[0]]:
        return None
    return f"imports {target}, which does not stand left of {importer[0]}"


def check(package):
    """Every fault of the package's files, and the files that were read."""
    faults, files = [], sorted(package.rglob("*.py"))
    for path in files:
        parts = list(path.relative_to(package).with_suffix("").parts)
        where = path.relative_to(package).as_posix()
        if parts[0] not in (FILES if len(parts) == 1 else LEVEL.keys() - FILES):
            faults.append(f"{where}: no room of the house")
            continue
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_LINES:
            faults.append(f"{where}: {text.count(chr(10))} lines, {MAX_LINES} is the end")
        module = ".".join([PACKAGE.name, *parts])
        for node in ast.walk(ast.parse(text, str(path))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names, relative = _imported(node, module)
                complaints = (_complaint(name, parts, relative) for name in names)
                faults += [f"{where}:{node.lineno}: {text}" for text in complaints if text]
    return faults, files


def test_the_house_keeps_its_order():
    faults, files = check(PACKAGE)
    read = {path.relative_to(PACKAGE).parts[0] for path in files}
    assert {"__init__.py", "errors.py"} <= read
    assert {"modules", "data", "models", "criterions", "generation", "tasks", "cli"} <= read
    assert faults == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("modules/a.py", "from ..models.gpt import GPTModel", "models"),
        ("modules/a.py", "from .. import models", "models"),
        ("data/a.py", "from ..optim import b", "optim"),
        ("data/deep/a.py", "from ...tasks.story_lm import T", "tasks"),
        ("data/__init__.py", "from ..models import gpt", "models"),
        ("models/a.py", "def f():\n    from ..criterions.x import C", "criterions"),
        ("criterions/a.py", "from ..generation import prefix", "generation"),
        ("tasks/a.py", "from ..cli import main", "cli"),
        ("serving/a.py", "from ..cli import main", "cli"),
        ("cli/a.py", "from user_dir.tasks import story_lm", "absolutely"),
        ("cli/a.py", "import user_dir", "absolutely"),
        ("cli/a.py", "from ..nowhere import x", "no room"),
        ("modules/a.py", "from ..compat import x", "compat"),
        ("compat/loud.py", "from ..data import x", "data"),
        ("errors.py", "from .compat import x", "compat"),
        ("errors/a.py", "", "no room"),
        ("extra.py", "", "no room"),
        ("misc/a.py", "", "no room"),
        ("cli/a.py", "x = 1\n" * 501, "501 lines"),
    ],
)
def test_a_fault_is_seen(tmp_path, file, line, fault):
    path = tmp_path / "user_dir" / file
    path.parent.mkdir(parents=True)
    path.write_text(line, encoding="utf-8")
    faults, files = check(tmp_path / "user_dir")
    assert files == [path]
    assert len(faults) == 1 and fault in faults[0]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/a.py", "from ..modules.attention import Attention\nimport torch, fairseq.models"),
        ("tasks/a.py", "from .. import data\nfrom ..generation import x\nfrom . import b"),
        ("cli/a.py", "from ..errors import UserError\nfrom .b import x\nx = 1\n" + "\n" * 497),
        ("compat/loud.py", "from ..errors import UserError\nfrom ..modules import ngram_blocking"),
        ("__init__.py", "from . import compat, tasks\nfrom .models import gpt"),
    ],
)
def test_an_allowed_import_is_no_fault(tmp_path, file, line):
    path = tmp_path / "user_dir" / file
    path.parent.mkdir(parents=True)
    path.write_text(line, encoding="utf-8")
    assert check(tmp_path / "user_dir") == ([], [path])

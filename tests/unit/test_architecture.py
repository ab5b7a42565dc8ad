"""Who may import whom: a room of the library knows only what stands left of it.

    errors < interfaces | plugin | option_rules < modules < compat < options
        < data | optim | distributed | pruning < generation | interop < tasks < serving < cli

``user_dir`` (models < criterions < tasks, optim, bpe) stands above ``tasks``: it may import the
library up to there, and nothing of the library imports it. Rooms joined by ``|`` do not know
each other, nor do the rooms of ``data``, which all know ``data/corpus``. Imports inside a
package are relative.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDERS = {
    "fairtale": (
        {"errors"},
        {"interfaces", "plugin", "option_rules"},
        {"modules"},
        {"compat"},
        {"options"},
        {"data", "optim", "distributed", "pruning"},
        {"generation", "interop"},
        {"tasks"},
        {"serving"},
        {"cli"},
    ),
    "user_dir": ({"models", "optim", "bpe"}, {"criterions"}, {"tasks"}),
}
HIGHEST_FOR_PLUG_IN = "tasks"  # the last room of the library that user_dir may import
DATA_KINDS = {"story", "dialog", "parallel", "documents"}
# what lies beside the rooms
FILES = {
    "fairtale": {
        "__init__",
        "__main__",
        "errors",
        "interfaces",
        "option_rules",
        "options",
        "plugin",
    },
    "user_dir": {"__init__"},
}


def _level(package, room):
    for level, rooms in enumerate(ORDERS[package]):
        if room in rooms:
            return level
    return None


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
    """Why the file with the dotted parts ``importer`` may not load ``name``; None if it may."""
    package, target = importer[0], name.split(".")
    if target[0] not in ORDERS:
        return None
    if target[0] != package:
        return _complaint_between_packages(target, package)
    if not relative:
        return f"imports {name} absolutely; imports inside are relative"
    if importer[1] in ("__init__", "__main__") and len(importer) == 2:
        return None
    room = target[1] if len(target) > 1 else ""
    level, own = _level(package, room), _level(package, importer[1])
    if level is None:
        return f"imports {name}, which is no room of the house"
    if importer[1] == room:
        return _complaint_within_data(target, importer) if room == "data" else None
    if level < own:
        return None
    return f"imports {room}, which does not stand left of {importer[1]}"


def _complaint_between_packages(target, package):
    if package == "fairtale":
        return "imports user_dir: the library does not know the plug-in"
    room = target[1] if len(target) > 1 else ""
    level = _level("fairtale", room)
    if level is None:
        return f"imports {'.'.join(target)}, which is no room of the house"
    if level > _level("fairtale", HIGHEST_FOR_PLUG_IN):
        return f"imports {room}, which does not stand left of user_dir"
    return None


def _complaint_within_data(target, importer):
    own, other = importer[2], target[2] if len(target) > 2 else ""
    if own == other or other not in DATA_KINDS or own == "__init__":
        return None
    return f"imports data/{other}: data/{own} does not know it"


def _seen_by_the_type_checker_only(tree):
    """What stands under ``if TYPE_CHECKING``: the declared types of ``interfaces`` name classes of
    other rooms, which it never loads.
    """
    blocks = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    ]
    return {inner for block in blocks for inner in ast.walk(block)}


def check(root):
    """Every fault of the files of both packages, and the files that were read."""
    faults, files = [], [p for package in ORDERS for p in sorted((root / package).rglob("*.py"))]
    for path in files:
        parts = path.relative_to(root).with_suffix("").parts
        package, where = parts[0], path.relative_to(root).as_posix()
        rooms = set().union(*ORDERS[package]) - FILES[package]
        if parts[1] not in (FILES[package] if len(parts) == 2 else rooms):
            faults.append(f"{where}: no room of the house")
            continue
        text = path.read_text(encoding="utf-8")
        module = ".".join(parts)
        tree = ast.parse(text, str(path))
        for_types = _seen_by_the_type_checker_only(tree) if parts[1] == "interfaces" else set()
        for node in ast.walk(tree):
            if node not in for_types and isinstance(node, ast.Import | ast.ImportFrom):
                names, relative = _imported(node, module)
                complaints = (_complaint(name, parts, relative) for name in names)
                faults += [f"{where}:{node.lineno}: {text}" for text in complaints if text]
    return faults, files


def test_the_house_keeps_its_order():
    faults, files = check(ROOT)
    read = {"/".join(path.relative_to(ROOT).parts[:2]) for path in files}
    assert {"fairtale/__init__.py", "fairtale/errors.py", "user_dir/__init__.py"} <= read
    rooms = {"modules", "compat", "data", "pruning", "generation", "tasks", "cli"}
    assert {f"fairtale/{room}" for room in rooms} <= read
    assert {f"user_dir/{room}" for room in ("models", "criterions", "tasks", "optim")} <= read
    assert faults == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("fairtale/modules/a.py", "from ..pruning.parts import x", "pruning"),
        ("fairtale/modules/a.py", "from .. import pruning", "pruning"),
        ("fairtale/data/a.py", "from ..optim import b", "optim"),
        ("fairtale/data/story/a.py", "from ...generation.session import S", "generation"),
        ("fairtale/data/story/a.py", "from ..dialog.format import x", "data/dialog"),
        ("fairtale/data/corpus/a.py", "from ..story import formats", "data/story"),
        ("fairtale/data/__init__.py", "from ..pruning import parts", "pruning"),
        ("fairtale/generation/a.py", "from ..tasks.prefix_lm import T", "tasks"),
        ("fairtale/generation/a.py", "from ..interop import hf", "interop"),
        ("fairtale/serving/a.py", "def f():\n    from ..cli import main", "cli"),
        ("fairtale/cli/a.py", "from user_dir.tasks import story_lm", "does not know the plug-in"),
        ("fairtale/cli/a.py", "import user_dir", "does not know the plug-in"),
        ("fairtale/cli/a.py", "from fairtale.data import x", "absolutely"),
        ("fairtale/cli/a.py", "import fairtale", "absolutely"),
        ("fairtale/cli/a.py", "from ..nowhere import x", "no room"),
        ("fairtale/modules/a.py", "from ..compat import x", "compat"),
        ("fairtale/compat/a.py", "from ..data import x", "data"),
        ("fairtale/errors.py", "from .compat import x", "compat"),
        ("fairtale/errors/a.py", "", "no room"),
        ("fairtale/extra.py", "", "no room"),
        ("fairtale/misc/a.py", "", "no room"),
        ("user_dir/models/a.py", "from ..criterions.x import C", "criterions"),
        ("user_dir/criterions/a.py", "from ..tasks import x", "tasks"),
        ("user_dir/tasks/a.py", "from fairtale.cli import main", "cli"),
        ("user_dir/tasks/a.py", "from fairtale import serving", "serving"),
        ("user_dir/tasks/a.py", "from fairtale.nowhere import x", "no room"),
        ("user_dir/tasks/a.py", "from user_dir.models import gpt", "absolutely"),
        ("user_dir/data/a.py", "", "no room"),
    ],
)
def test_a_fault_is_seen(tmp_path, file, line, fault):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line, encoding="utf-8")
    faults, files = check(tmp_path)
    assert files == [path]
    assert len(faults) == 1 and fault in faults[0]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (
            "fairtale/pruning/a.py",
            "from ..modules.attention import A\nimport torch, fairseq.models",
        ),
        ("fairtale/data/story/a.py", "from ..corpus import records\nfrom . import books"),
        ("fairtale/tasks/a.py", "from .. import data\nfrom ..generation import x\nfrom . import b"),
        (
            "fairtale/cli/a.py",
            "from ..errors import UserError\nfrom .b import x\nx = 1\n" + "\n" * 497,
        ),
        ("fairtale/compat/a.py", "from ..errors import UserError\nfrom ..modules import x"),
        ("user_dir/__init__.py", "from fairtale import compat\nfrom .models import gpt"),
        ("user_dir/tasks/a.py", "from fairtale.tasks.x import T\nfrom ..models import gpt"),
    ],
)
def test_an_allowed_import_is_no_fault(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line, encoding="utf-8")
    assert check(tmp_path) == ([], [path])

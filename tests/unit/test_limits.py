"""Files and functions stay small enough to read at once, and every function is annotated."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fairtale", "user_dir", "benchmarks", "scripts", "tools", "tests")
ANNOTATED = ("fairtale", "user_dir")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 10
# Beside the parameters that are counted, a function may take one configuration object.
NOT_COUNTED = {"self", "cls", "cfg", "config", "args", "options"}
# fairseq calls these with keywords of its own, so their parameters are not ours to choose.
FAIRSEQ_SIGNATURES = {"eval_lm_dataloader", "get_batch_iterator"}


def files(*folders, suffixes=(".py", ".sh")):
    """The tracked source files below ``folders``, as (path, text)."""
    found = [
        p for name in folders for p in sorted((ROOT / name).rglob("*")) if p.suffix in suffixes
    ]
    assert found, folders
    return [(path.relative_to(ROOT), path.read_text(encoding="utf-8")) for path in found]


def functions(*folders):
    """Every function below ``folders``, as (where, node)."""
    for path, text in files(*folders, suffixes=(".py",)):
        for node in ast.walk(ast.parse(text, str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}:{node.lineno} {node.name}", node


def parameters(node):
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [a for a in named if a.arg not in NOT_COUNTED]


def too_many_parameters(node):
    return node.name not in FAIRSEQ_SIGNATURES and len(parameters(node)) > MAX_PARAMETERS


def lacks_annotation(node):
    """Whether a parameter or the result has no type; ``self`` and ``cls`` need none."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    extra = [a for a in (arguments.vararg, arguments.kwarg) if a]
    missing = [a.arg for a in named + extra if a.annotation is None]
    return bool(set(missing) - {"self", "cls"}) or node.returns is None


def too_long(text):
    return text.count("\n") > MAX_FILE_LINES


def test_no_file_is_longer_than_it_may_be():
    assert [str(path) for path, text in files(*FOLDERS) if too_long(text)] == []
    assert too_long("x = 1\n" * 401) and not too_long("x = 1\n" * 400)


def test_no_function_is_longer_than_it_may_be():
    lengths = {where: n.end_lineno - n.lineno + 1 for where, n in functions(*FOLDERS)}
    assert len(lengths) > 1000
    assert {where: n for where, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


def test_no_function_takes_more_parameters_than_it_may():
    found = [where for where, node in functions(*FOLDERS) if too_many_parameters(node)]
    assert found == []


def test_every_function_of_the_packages_is_annotated():
    assert [where for where, node in functions(*ANNOTATED) if lacks_annotation(node)] == []


def test_the_type_checker_is_not_silenced_wholesale():
    """``# type: ignore`` names the error that it hides."""
    blanket = re.compile(r"#\s*type:\s*ignore(?!\[)|#\s*mypy:")
    assert [str(path) for path, text in files(*ANNOTATED) if blanket.search(text)] == []


@pytest.mark.parametrize(
    ("code", "check"),
    [
        (f"def f(self, cfg, {', '.join(f'a{i}' for i in range(11))}): pass", too_many_parameters),
        ("def f(x: int): pass", lacks_annotation),
        ("def f(self, x, *, y: int = 1) -> None: pass", lacks_annotation),
        ("def f(*x) -> None: pass", lacks_annotation),
    ],
)
def test_a_fault_is_seen(code, check):
    assert check(ast.parse(code).body[0])


def test_what_is_allowed_is_no_fault():
    code = f"def f(self, cfg: C, {', '.join(f'a{i}: int' for i in range(10))}) -> None: pass"
    node = ast.parse(code).body[0]
    assert not too_many_parameters(node) and not lacks_annotation(node)

"""The command itself, without a process of its own: old names of options."""

import sys
from types import ModuleType

import pytest

from fairtale.cli import main
from fairtale.errors import UserError

RENAMED = {"--out": "--output", "--max-len": "--max-len-b"}


@pytest.mark.parametrize(
    "words",
    [["--out", "x"], ["--out=x"], ["in", "--out"], ["--output", "a", "--out", "b"]],
    ids=" ".join,
)
def test_an_old_name_is_refused_with_the_new_one(words):
    with pytest.raises(UserError, match="^--out is now called --output$"):
        main.refuse_old_names(words, RENAMED)


@pytest.mark.parametrize(
    "words", [["--output", "out"], ["--title=--out"], ["--", "--out"], ["--max-len-b=3"]]
)
def test_what_only_resembles_an_old_name_is_accepted(words):
    main.refuse_old_names(words, RENAMED)


@pytest.fixture
def verb(monkeypatch):
    """A verb with a renamed option, whose value it returns as its status."""
    module = ModuleType("fairtale.cli.example")
    module.add_arguments = lambda parser: parser.add_argument("--output", type=int, default=0)
    module.run = lambda args: args.output
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(main.VERBS, "example", (".example", "for this test"))
    return module


def test_the_old_name_is_no_abbreviation_of_the_new_one(verb, capsys):
    assert main.main(["example", "--out", "7"]) == 7  # as argparse abbreviates
    verb.RENAMED_OPTIONS = {"--out": "--output"}
    assert main.main(["example", "--output", "7"]) == main.main(["example", "--outp", "7"]) == 7
    for words in (["--out", "7"], ["--out=7"]):
        assert main.main(["example", *words]) == 2
        assert capsys.readouterr().err == "error: --out is now called --output\n"


def test_errors_of_the_command_line_have_one_line(capsys):
    for words in (["documents", "x", "--output", "y", "--valid", "2"], ["gpt2", "import"]):
        with pytest.raises(SystemExit) as error:
            main.main(words)
        assert error.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1, message

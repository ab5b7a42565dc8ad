"""Chat with a dialog model at the terminal. Replies take the whole history into account.

Ctrl-C stops a reply, /new clears the history, and Ctrl-D or /quit ends the chat. At a terminal, the
arrow keys move within a line and bring back earlier ones.
"""

import argparse
import contextlib
import importlib
import itertools
import logging
import sys
from collections.abc import Iterable

from ..data.corpus.text_lines import check_utf8
from ..errors import UserError
from ..plugin import register
from .decoding_options import add_decoding_options, add_loading_options, decoding_options

NEW, QUIT = "/new", "/quit"
RENAMED_OPTIONS = {
    "--topk": "--sampling-topk",
    "--topp": "--sampling-topp",
    "--max-len": "--max-len-b",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb; decoding options have the names and meanings of fairseq."""
    parser.add_argument("checkpoint", help="checkpoint of a model trained with --task dialog_lm")
    add_loading_options(parser)
    add_decoding_options(parser, "reply", no_repeat_ngram_size=3)
    parser.add_argument(
        "--steer-words", metavar="FILE", help="make the words of this file, one a line, likelier"
    )
    parser.add_argument(
        "--steer-weight",
        type=float,
        metavar="W",
        help="value added to the logits of the words in --steer-words (default: 2)",
    )


def run(args: argparse.Namespace) -> int:
    """Load the model, then answer the user's lines until the input ends."""
    options = decoding_options(args)
    register()  # must precede the first import of fairseq, which logs and warns without it
    from ..generation.session import Session
    from ..generation.writers import Kind

    logging.getLogger().setLevel(logging.WARNING)
    changed = {
        name: getattr(args, name) for name in ("steer_words", "steer_weight", "lora_adapter")
    }
    session = Session.load(args.checkpoint, args.data, args.cpu, changed, kinds=[Kind.DIALOG])
    if getattr(session.task, "is_reverse", False):
        raise UserError(
            f"{args.checkpoint}: trained with --reverse, so it predicts queries from responses; "
            "give the model that it re-ranks (--mmi-path names this one)"
        )
    session.check(options)
    _edit_lines()
    generator = session.new_generator(options.seed)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 is reported
    history: list[str] = []
    for number in itertools.count(1):
        said = _ask(number)
        if said is None or said == QUIT:
            break
        if said == NEW:
            history.clear()
        elif said.startswith("/") and " " not in said:
            _print_error(UserError(f"{said}: no such command; there are {NEW} and {QUIT}"))
        elif said:
            try:
                parts = session.stream([*history, said], options, generator)
            except UserError as error:  # the model cannot read the line
                _print_error(error)
                continue
            history.append(said)
            reply = _type(parts)
            if reply:
                history.append(reply)
    return 0


def _edit_lines() -> None:
    """Let ``input`` edit lines and bring back earlier ones at a terminal."""
    with contextlib.suppress(ImportError):  # Windows has no readline
        importlib.import_module("readline")  # ``input`` uses it as soon as it is imported


def _ask(number: int) -> str | None:
    """Read line ``number`` of the input; return None at its end, and "" if it is not UTF-8."""
    try:
        line = input("you: " if sys.stdin.isatty() else "")
        check_utf8(line, number)
    except EOFError:
        print()
        return None
    except UserError as error:
        _print_error(error)
        return ""
    return " ".join(line.split())


def _print_error(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def _type(parts: Iterable[str]) -> str:
    """Print the parts of a reply as they are generated; return the whole reply."""
    reply = ""
    print("bot: " if sys.stdin.isatty() else "", end="", flush=True)
    try:
        for part in parts:
            print(part, end="", flush=True)
            reply += part
    except KeyboardInterrupt:
        print(" ...", end="")
    print(flush=True)
    return reply.strip()

"""Chat with a dialog model at the terminal. Replies take the whole history into account.

Ctrl-C stops a reply, /new clears the history, and Ctrl-D or /quit ends the chat.
"""

import argparse
import dataclasses
import itertools
import logging
import sys
from collections.abc import Iterable

from ..data.corpus.text_lines import check_utf8
from ..errors import UserError
from ..generation.options import (
    DEFAULT_MAX_LEN,
    DEFAULT_TOPK,
    DecodingOptions,
    check_sampling,
)
from ..plugin import register
from .argument_types import positive_int

NEW, QUIT = "/new", "/quit"
RENAMED_OPTIONS = {
    "--topk": "--sampling-topk",
    "--topp": "--sampling-topp",
    "--max-len": "--max-len-b",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb; decoding options have the names and meanings of fairseq."""
    parser.add_argument("checkpoint", help="checkpoint of a model trained with --task dialog_lm")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with the model's dict.txt and tokenizer (default: the data of its training)",
    )
    parser.add_argument(
        "--sampling-topk",
        type=int,
        metavar="K",
        help="sample from the K most probable tokens; 1 decodes greedily, -1 sets no limit "
        f"(default: {DEFAULT_TOPK}, or -1 with --sampling-topp)",
    )
    parser.add_argument(
        "--sampling-topp",
        type=float,
        default=-1.0,
        metavar="P",
        help="sample from the most probable tokens whose total probability is P; -1 sets no "
        "limit (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="divisor of the logits (default: %(default)s)",
    )
    parser.add_argument(
        "--max-len-b",
        type=positive_int,
        metavar="N",
        help=f"maximum number of tokens of a reply (default: {DEFAULT_MAX_LEN}, or the maximum "
        "length in training if that is shorter)",
    )
    parser.add_argument(
        "--min-len",
        type=int,
        default=1,
        metavar="N",
        help="minimum number of tokens of a reply (default: %(default)s)",
    )
    parser.add_argument(
        "--no-repeat-ngram-size",
        type=int,
        default=3,
        metavar="N",
        help="do not repeat an N-gram within a reply; 0 disables this (default: %(default)s)",
    )
    parser.add_argument(
        "--block-context-ngram",
        type=int,
        default=0,
        metavar="N",
        help="do not repeat an N-gram of the history; 0 disables this (default: %(default)s)",
    )
    parser.add_argument(
        "--steer-words", metavar="FILE", help="make the words of this file, one a line, likelier"
    )
    parser.add_argument(
        "--steer-weight",
        type=float,
        metavar="W",
        help="value added to the logits of the words in --steer-words (default: 2)",
    )
    parser.add_argument(
        "--seed", type=int, help="random seed of sampling; makes replies reproducible"
    )
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")


def run(args: argparse.Namespace) -> int:
    """Load the model, then answer the user's lines until the input ends."""
    options = decoding_options(args)
    register()  # must precede the first import of fairseq, which logs and warns without it
    from ..generation.session import Session
    from ..generation.writers import Kind

    logging.getLogger().setLevel(logging.WARNING)
    steering = {"steer_words": args.steer_words, "steer_weight": args.steer_weight}
    session = Session.load(args.checkpoint, args.data, args.cpu, steering, kinds=[Kind.DIALOG])
    session.check(options)
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


def decoding_options(args: argparse.Namespace) -> DecodingOptions:
    """Return the decoding options of the command line, after checking that they are consistent.

    Raises:
        UserError: an option is out of range or would have no effect.
    """
    given = vars(args)
    check_sampling(given)
    return DecodingOptions(**{f.name: given[f.name] for f in dataclasses.fields(DecodingOptions)})


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

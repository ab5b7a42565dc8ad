"""Talk to a dialog model at the terminal; it keeps the history and types replies token by token.

Ctrl-C stops a reply, /new forgets the history, Ctrl-D or /quit ends.
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
    """Add the verb's arguments; what concerns decoding has fairseq's names and meanings."""
    parser.add_argument("checkpoint", help="checkpoint of --task dialog_lm")
    parser.add_argument(
        "--data", help="folder with its dict.txt and tokenizer (default: where it was trained)"
    )
    parser.add_argument(
        "--sampling-topk",
        type=int,
        metavar="K",
        help="choose from the K likeliest tokens; 1 is greedy, -1 no limit "
        f"(default: {DEFAULT_TOPK}, or -1 with --sampling-topp)",
    )
    parser.add_argument(
        "--sampling-topp",
        type=float,
        default=-1.0,
        metavar="P",
        help="choose from the likeliest tokens that have this probability together; "
        "-1 is no limit (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="divides the logits (default: %(default)s)"
    )
    parser.add_argument(
        "--max-len-b",
        type=positive_int,
        metavar="N",
        help=f"most tokens of a reply (default: {DEFAULT_MAX_LEN}, or the longest that the model "
        "has learned if that is shorter)",
    )
    parser.add_argument(
        "--min-len",
        type=int,
        default=1,
        metavar="N",
        help="least tokens of a reply (default: %(default)s)",
    )
    parser.add_argument(
        "--no-repeat-ngram-size",
        type=int,
        default=3,
        metavar="N",
        help="repeat no n-gram of the reply; 0 is off (default: %(default)s)",
    )
    parser.add_argument(
        "--block-context-ngram",
        type=int,
        default=0,
        metavar="N",
        help="repeat no n-gram of the history; 0 is off (default: %(default)s)",
    )
    parser.add_argument(
        "--steer-words", metavar="FILE", help="make the words of this file likelier; one a line"
    )
    parser.add_argument(
        "--steer-weight",
        type=float,
        metavar="W",
        help="added to the logits of the words in --steer-words (default: 2)",
    )
    parser.add_argument(
        "--seed", type=int, help="random seed; the same one repeats the same replies"
    )
    parser.add_argument("--cpu", action="store_true", help="use no GPU")


def run(args: argparse.Namespace) -> int:
    """Load the model, then answer what is said until the input ends."""
    options = decoding_options(args)
    register()  # before anything imports fairseq, which is noisy without it
    from ..generation.session import Session
    from ..generation.writers import Kind

    logging.getLogger().setLevel(logging.WARNING)
    steering = {"steer_words": args.steer_words, "steer_weight": args.steer_weight}
    session = Session.load(args.checkpoint, args.data, args.cpu, steering, kinds=[Kind.DIALOG])
    session.check(options)
    generator = session.new_generator(options.seed)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # a strict one would end the chat
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
            except UserError as error:  # nothing in it that the model can read
                _complain(error)
                continue
            history.append(said)
            reply = _type(parts)
            if reply:
                history.append(reply)
    return 0


def decoding_options(args: argparse.Namespace) -> DecodingOptions:
    """Return how to decode; those options that concern the whole session are checked as well.

    Raises:
        UserError: names every option that would do nothing, or something else, with its value and
            the rule.
    """
    given = vars(args)
    check_sampling(given)
    return DecodingOptions(**{f.name: given[f.name] for f in dataclasses.fields(DecodingOptions)})


def _ask(number: int) -> str | None:
    """Read a line, the ``number``-th; None at the end of the input, "" if it is not UTF-8."""
    try:
        line = input("you: " if sys.stdin.isatty() else "")
        check_utf8(line, number)
    except EOFError:
        print()
        return None
    except UserError as error:
        _complain(error)
        return ""
    return " ".join(line.split())


def _complain(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def _type(parts: Iterable[str]) -> str:
    """Print the parts of a reply as they come; return it."""
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

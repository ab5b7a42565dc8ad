"""Talk to a dialog model: it keeps the history and types its replies as it finds them.

Ctrl-C stops a reply, /new forgets the history, Ctrl-D or /quit ends.
"""

import itertools
import math
import sys

from ..errors import UserError
from ..plugin import register
from .support import positive_int

NEW, QUIT = "/new", "/quit"
DEFAULT_TOPK, DEFAULT_MAX_LEN = 10, 60


def add_arguments(parser):
    parser.add_argument("checkpoint", help="checkpoint of --task dialog_lm")
    parser.add_argument(
        "--data", help="folder with its dict.txt and tokenizer (default: where it was trained)"
    )
    parser.add_argument(
        "--topk",
        type=int,
        help=f"draw from the k best (1: greedy, 0: all) (default: {DEFAULT_TOPK}, with --topp 0)",
    )
    parser.add_argument(
        "--topp", type=float, default=1.0, help="draw from the nucleus of this probability"
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="divides the logits (default: 1)"
    )
    parser.add_argument(
        "--max-len",
        type=positive_int,
        help=f"most tokens of a reply (default: {DEFAULT_MAX_LEN}, or as many as it has learned)",
    )
    parser.add_argument(
        "--min-len", type=int, default=1, help="least tokens of a reply (default: %(default)s)"
    )
    parser.add_argument(
        "--no-repeat-ngram-size", type=int, default=3, help="0: off (default: %(default)s)"
    )
    parser.add_argument(
        "--block-context-ngram",
        type=int,
        default=0,
        metavar="N",
        help="repeat no n-gram of the history (default: 0, off)",
    )
    parser.add_argument("--steer-words", metavar="FILE", help="words of a topic, one a line")
    parser.add_argument(
        "--steer-weight", type=float, metavar="W", help="added to their logits (default: 2)"
    )
    parser.add_argument("--seed", type=int, help="repeats the same replies")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")


def run(args):
    check_options(args)
    register()
    import logging

    import torch
    from fairseq import checkpoint_utils

    from ..generation.streaming import stream_tokens, text_as_it_grows

    logging.getLogger().setLevel(logging.WARNING)
    # what a training was told of generation does not count here
    overrides = {
        "block_context_ngram": args.block_context_ngram,
        "steer_words": args.steer_words,
        "steer_weight": args.steer_weight,
    }
    if args.data:
        overrides["data"] = args.data
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([args.checkpoint], overrides)
    if not hasattr(task, "reply_input"):
        raise UserError(f"{args.checkpoint}: trained with {type(task).__name__}, not dialog_lm")
    max_len = reply_length(args, task.limits.max_target_positions - 1)
    processors = tuple(task.reply_processors())
    model = models[0].eval()
    if torch.cuda.is_available() and not args.cpu:
        model.cuda()
    device = next(model.parameters()).device
    random = torch.Generator(device)
    random.manual_seed(args.seed) if args.seed is not None else random.seed()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # a strict one would end the chat
    history: list[str] = []
    for number in itertools.count(1):
        said = _ask(number)
        if said is None or said == QUIT:
            return 0
        if said == NEW:
            history.clear()
            continue
        if not said:
            continue
        try:
            net_input, eos, forbidden = task.reply_input([*history, said], device)
        except UserError as error:  # nothing in it that the model can read
            _complain(error)
            continue
        history.append(said)
        tokens = stream_tokens(
            model,
            net_input,
            eos,
            max_len,
            forbidden,
            args.topk,
            args.topp,
            args.temperature,
            args.min_len,
            args.no_repeat_ngram_size,
            processors,
            random,
        )
        reply = _type(text_as_it_grows(tokens, task.decode_ids))
        if reply:
            history.append(reply)


def check_options(args):
    """Refuse what would do nothing, or something else; settle ``--topk``.

    Raises:
        UserError: names every such option with its value and the rule.
    """
    max_len = DEFAULT_MAX_LEN if args.max_len is None else args.max_len
    weight = args.steer_weight
    rules = [
        (args.topk is None or args.topk >= 0, f"--topk {args.topk}: at least 1, or 0 for all"),
        (0 < args.topp <= 1, f"--topp {args.topp}: a probability above 0 and at most 1"),
        (
            not args.topk or args.topk < 0 or not 0 < args.topp < 1,
            f"--topk {args.topk} --topp {args.topp}: give one of them",
        ),
        (
            0 < args.temperature < math.inf,
            f"--temperature {args.temperature}: must be > 0, and finite",
        ),
        (args.min_len >= 0, f"--min-len {args.min_len}: must not be negative"),
        (args.min_len <= max_len, f"--min-len {args.min_len} is more than --max-len {max_len}"),
        (
            args.no_repeat_ngram_size >= 0,
            f"--no-repeat-ngram-size {args.no_repeat_ngram_size}: must not be negative",
        ),
        (
            args.block_context_ngram >= 0,
            f"--block-context-ngram {args.block_context_ngram}: must not be negative",
        ),
        (
            weight is None or (math.isfinite(weight) and bool(args.steer_words)),
            f"--steer-weight {weight}: a finite number, together with --steer-words FILE",
        ),
        (
            args.seed is None or -(1 << 63) <= args.seed < 1 << 64,
            f"--seed {args.seed}: a number of 64 bits",
        ),
    ]
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise UserError("; ".join(broken))
    if args.topk is None:
        args.topk = DEFAULT_TOPK if args.topp == 1 else 0


def reply_length(args, limit):
    """``--max-len``, or its default where the model has learned replies that long.

    Args:
        limit: most tokens of a reply that the model has learned, its end left out.

    Raises:
        UserError: the model has learned no reply as long as the options ask for.
    """
    learned = f"replies of at most {limit} tokens were learned (--max-target-positions)"
    if args.max_len is not None and args.max_len > limit:
        raise UserError(f"--max-len {args.max_len}: {learned}")
    if args.min_len > limit:
        raise UserError(f"--min-len {args.min_len}: {learned}")
    return args.max_len or min(DEFAULT_MAX_LEN, limit)


def _ask(number):
    """Read a line, the ``number``-th; None at the end of the input, "" if it is not UTF-8."""
    from ..tasks.text import check_utf8

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


def _complain(error):
    print(f"error: {error}", file=sys.stderr, flush=True)


def _type(parts):
    """Print the parts of a reply as they come; return it."""
    reply = ""
    print("bot: " if sys.stdin.isatty() else "", end="", flush=True)
    try:
        for part in parts:
            part = part if reply else part.lstrip()
            print(part, end="", flush=True)
            reply += part
    except KeyboardInterrupt:
        print(" ...", end="")
    print(flush=True)
    return reply.strip()

"""Talk to a dialog model: it keeps the history and types its replies as it finds them.

Ctrl-C stops a reply, /new forgets the history, Ctrl-D or /quit ends.
"""

import sys

from ..errors import UserError
from .support import positive_int

NEW, QUIT = "/new", "/quit"


def add_arguments(parser):
    parser.add_argument("checkpoint", help="checkpoint of --task dialog_lm")
    parser.add_argument(
        "--data", help="folder with its dict.txt and tokenizer (default: where it was trained)"
    )
    parser.add_argument(
        "--topk", type=int, default=10, help="draw from the k best (1: greedy) (default: 10)"
    )
    parser.add_argument("--topp", type=float, default=1.0, help="draw from the nucleus")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="divides the logits (default: 1)"
    )
    parser.add_argument("--max-len", type=positive_int, default=60, help="most tokens of a reply")
    parser.add_argument("--min-len", type=int, default=1, help="least tokens of a reply")
    parser.add_argument(
        "--no-repeat-ngram-size", type=int, default=3, help="0: off (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="repeats the same replies")


def run(args):
    import fairtale

    fairtale.register()
    import logging

    import torch
    from fairseq import checkpoint_utils

    from ..generation.streaming import stream_tokens, text_as_it_grows

    logging.getLogger().setLevel(logging.WARNING)
    overrides = {"data": args.data} if args.data else {}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([args.checkpoint], overrides)
    if not hasattr(task, "reply_input"):
        raise UserError(f"{args.checkpoint}: trained with {type(task).__name__}, not dialog_lm")
    model = models[0].eval()
    if torch.cuda.is_available():
        model.cuda()
    device = next(model.parameters()).device
    random = torch.Generator(device)
    random.manual_seed(args.seed) if args.seed is not None else random.seed()
    history: list[str] = []
    while True:
        said = _ask()
        if said is None or said == QUIT:
            return 0
        if said == NEW:
            history.clear()
            continue
        if not said:
            continue
        history.append(said)
        net_input, eos, forbidden = task.reply_input(history, device)
        tokens = stream_tokens(
            model,
            net_input,
            eos,
            args.max_len,
            forbidden,
            args.topk,
            args.topp,
            args.temperature,
            args.min_len,
            args.no_repeat_ngram_size,
            generator=random,
        )
        reply = _type(text_as_it_grows(tokens, task.decode_ids))
        if reply:
            history.append(reply)


def _ask():
    """Read a line; None at the end of the input."""
    try:
        return " ".join(input("you: " if sys.stdin.isatty() else "").split())
    except EOFError:
        print()
        return None


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

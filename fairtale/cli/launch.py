"""Run a training command on this machine's devices, with an update of the wanted size.

  fairtale launch --update-tokens 131072 --max-tokens 16384 fairseq-train DATA ...

adds --max-tokens, --update-freq and the precision (or --cpu) to the command, and starts it by
torchrun where several GPUs are used. An update has

  devices x max-tokens x update-freq

tokens, padding included, and never fewer than --update-tokens. The environment's N_GPUS says
how many GPUs are used (default: all that torch sees); 0 trains on the CPU.

--precision auto is bf16 on a GPU that computes with it, and fp16 on others. On a CPU the
faster one depends on the processor, so matrix products are timed in fp32 and in bf16; a
training that goes on keeps its precision. A precision that the command itself asks for wins.
"""

import argparse
import logging
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..data.training_log import last_precision
from ..errors import UserError
from .argument_types import positive_int
from .usage import short_errors

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# Options of fairseq-train that choose a precision.
_CHOOSE_PRECISION = frozenset(
    ("--fp16", "--bf16", "--amp", "--tpu", "--memory-efficient-fp16", "--memory-efficient-bf16")
)
_SECONDS_OF_TIMING = 0.06
_ROWS_TIMED = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    short_errors(parser)
    numbers = {
        "--update-tokens": "tokens of one update, all devices together",
        "--max-tokens": "tokens of one batch on one device (default: update-tokens / devices)",
        "--cpu-update-tokens": "likewise, without a GPU (default: --update-tokens)",
        "--cpu-max-tokens": "likewise, without a GPU (default: --max-tokens)",
    }
    for name, text in numbers.items():
        needed = name == "--update-tokens"
        parser.add_argument(name, type=positive_int, required=needed, metavar="N", help=text)
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--width",
        type=positive_int,
        default=512,
        metavar="N",
        help="width of the model whose products are timed on a CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--print", action="store_true", dest="only_print", help="print the command, do not run it"
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="fairseq-train and its words"
    )


def run(args: argparse.Namespace) -> None:
    if not args.command:
        raise UserError("COMMAND is missing: name fairseq-train and its words")
    words = compose(args, os.environ.get("N_GPUS"))
    if args.only_print:
        print(shlex.join(words))
        return
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and a command inherits that
    os.execvp(words[0], words)


class Update(NamedTuple):
    """How an update is divided."""

    devices: int
    max_tokens: int
    frequency: int  # batches of one device

    def __str__(self) -> str:
        tokens = self.devices * self.max_tokens * self.frequency
        return f"{self.devices} x {self.max_tokens} x {self.frequency} = {tokens} tokens"


def divide_update(devices: int, update_tokens: int, max_tokens: int | None) -> Update:
    """Return how ``devices`` share an update of at least ``update_tokens`` tokens.

    Args:
        max_tokens: of one batch on one device; None is an equal share of the update.
    """
    if max_tokens is None:
        max_tokens = -(-update_tokens // devices)
    return Update(devices, max_tokens, -(-update_tokens // (devices * max_tokens)))


def compose(args: argparse.Namespace, asked_gpus: str | None) -> list[str]:
    """Return the words of the whole command.

    Args:
        args: the options of this verb.
        asked_gpus: the value of ``N_GPUS``, if it is set.

    Raises:
        UserError: ``N_GPUS`` is no number, or the command is not installed.
    """
    num_gpus = _num_gpus(asked_gpus)
    update_tokens, max_tokens = args.update_tokens, args.max_tokens
    if not num_gpus:
        update_tokens = args.cpu_update_tokens or update_tokens
        max_tokens = args.cpu_max_tokens or max_tokens
    update = divide_update(max(num_gpus, 1), update_tokens, max_tokens)
    logger.info("== an update: %s", update)
    precision = args.precision
    if _CHOOSE_PRECISION & set(args.command):
        precision = "fp32"  # nothing to add
    elif precision == "auto":
        precision = (
            _precision_of_gpu()
            if num_gpus
            else _precision_of_resumed(args.command) or _precision_of_cpu(args.width)
        )
    words = ["--max-tokens", str(update.max_tokens), "--update-freq", str(update.frequency)]
    words += [] if precision == "fp32" else [f"--{precision}"]
    words += [] if num_gpus else ["--cpu"]
    name, *rest = args.command
    path = shutil.which(name)
    if path is None:
        raise UserError(f"{name} is not installed; run: make setup")
    if num_gpus > 1:
        launcher = ["torchrun", "--standalone", "--nproc-per-node", str(num_gpus), path]
        return [*launcher, *words, *rest]
    return [name, *words, *rest]


def _num_gpus(asked: str | None) -> int:
    if asked:
        if not asked.isdecimal():
            raise UserError(f"N_GPUS={asked}: a whole number; 0 trains on the CPU")
        return int(asked)
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


# ------------------------------------------------------------------------------- precision


def _precision_of_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "fp32"  # N_GPUS asks for GPUs that are not there; fairseq-train will say so
    return "bf16" if torch.cuda.is_bf16_supported(False) else "fp16"


def _precision_of_resumed(command: Sequence[str]) -> str | None:
    """Return the precision of the training that ``command`` goes on with; None for a new one.

    fairseq cannot go on in another one, and the measurement may come out otherwise today. The
    log that the recipes write tells; where there is none, it was the default, fp32.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--save-dir", default="checkpoints")
    save_dir = finder.parse_known_args(command)[0].save_dir
    if not os.path.isfile(os.path.join(save_dir, "checkpoint_last.pt")):
        return None
    log = os.path.join(save_dir, "train.log")
    precision = (last_precision(log) if os.path.isfile(log) else None) or "fp32"
    logger.info("== training goes on in %s, as it began (--precision decides otherwise)", precision)
    return precision


def _precision_of_cpu(width: int) -> str:
    rates = time_products(width)
    fastest = max(rates, key=rates.__getitem__)
    figures = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    logger.info(
        "== matrix products on this CPU: %s; so training is in %s (--precision decides otherwise)",
        figures,
        fastest,
    )
    return fastest


def time_products(width: int) -> dict[str, float]:
    """Return the rates of matrix products on this CPU in fp32 and in bf16, in FLOP/s.

    The products are those of a feed-forward layer and its gradients, with as many threads as
    torch uses here. Both precisions take turns, so that other work on the machine slows both,
    and the best turn of each counts.

    Args:
        width: of the model; the layer is four times as wide.
    """
    import torch
    from torch.nn.functional import linear

    from ..modules.fast_gemm import fast_fp32_products

    def make_step(dtype: torch.dtype) -> Callable[[], object]:
        rows = torch.randn(_ROWS_TIMED, width).to(dtype).requires_grad_()
        weight = torch.randn(4 * width, width).to(dtype).requires_grad_()
        gradient = torch.randn(_ROWS_TIMED, 4 * width).to(dtype)
        return lambda: torch.autograd.grad(linear(rows, weight), (rows, weight), gradient)

    num_operations = 3 * 2 * _ROWS_TIMED * width * 4 * width
    with fast_fp32_products():
        steps = {"fp32": make_step(torch.float32), "bf16": make_step(torch.bfloat16)}
        for step in steps.values():
            step()  # the first one prepares kernels
        seconds = dict.fromkeys(steps, float("inf"))
        end = time.perf_counter() + _SECONDS_OF_TIMING
        while True:
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                seconds[name] = min(seconds[name], time.perf_counter() - start)
            if time.perf_counter() > end:
                break
    return {name: num_operations / value for name, value in seconds.items()}

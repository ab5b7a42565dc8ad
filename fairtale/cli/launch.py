"""Run fairseq-train on the devices of this machine, with a given number of tokens in an update.

  fairtale launch --update-tokens 131072 --max-tokens 16384 fairseq-train DATA ...

The verb adds --max-tokens, --update-freq and the precision (or --cpu) to the command, and starts
it with torchrun if it uses several GPUs. An update then has

  devices x max-tokens x update-freq

tokens, including padding, which are at least --update-tokens. The environment variable N_GPUS
sets the number of GPUs (default: all that torch sees); N_GPUS=0 trains on the CPU.

With --precision auto, training is in bf16 on a GPU that supports it, and in fp16 on other GPUs.
On a CPU, matrix products are timed in fp32 and bf16, and the faster precision is used, but a
resumed training keeps its precision. A precision option in the command itself takes precedence.
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

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# Options of fairseq-train that set a precision.
_CHOOSE_PRECISION = frozenset(
    ("--fp16", "--bf16", "--amp", "--tpu", "--memory-efficient-fp16", "--memory-efficient-bf16")
)
_SECONDS_OF_TIMING = 0.06
_ROWS_TIMED = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    numbers = {
        "--update-tokens": "minimum number of tokens of one update on all devices together",
        "--max-tokens": "tokens of one batch on one device (default: update-tokens / devices)",
        "--cpu-update-tokens": "value of --update-tokens on a CPU (default: --update-tokens)",
        "--cpu-max-tokens": "value of --max-tokens on a CPU (default: --max-tokens)",
    }
    for name, text in numbers.items():
        needed = name == "--update-tokens"
        parser.add_argument(name, type=positive_int, required=needed, metavar="N", help=text)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision of the training (default: %(default)s)",
    )
    parser.add_argument(
        "--width",
        type=positive_int,
        default=512,
        metavar="N",
        help="width of the model, for timing matrix products on a CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        dest="only_print",
        help="print the command instead of running it",
    )
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="fairseq-train and its arguments",
    )


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    if not args.command:
        raise UserError("COMMAND is missing: give fairseq-train and its arguments")
    words = compose(args, os.environ.get("N_GPUS"))
    if args.only_print:
        print(shlex.join(words))
        return
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the command would inherit Python's SIG_IGN
    os.execvp(words[0], words)


class Update(NamedTuple):
    """The division of an update into batches."""

    devices: int
    max_tokens: int  # tokens of one batch
    frequency: int  # batches of one device in an update

    def __str__(self) -> str:
        tokens = self.devices * self.max_tokens * self.frequency
        return f"{self.devices} x {self.max_tokens} x {self.frequency} = {tokens} tokens"


def divide_update(devices: int, update_tokens: int, max_tokens: int | None) -> Update:
    """Divide an update of at least ``update_tokens`` tokens among devices.

    Args:
        devices: number of devices.
        update_tokens: minimum number of tokens of an update.
        max_tokens: tokens of one batch on one device; None for one batch per device and update.
    """
    if max_tokens is None:
        max_tokens = -(-update_tokens // devices)
    return Update(devices, max_tokens, -(-update_tokens // (devices * max_tokens)))


def compose(args: argparse.Namespace, asked_gpus: str | None) -> list[str]:
    """Return the whole command as a list of words.

    Args:
        args: the options of this verb.
        asked_gpus: the value of the environment variable ``N_GPUS``, or None if it is not set.

    Raises:
        UserError: ``N_GPUS`` is not a whole number, or the command is not installed.
    """
    num_gpus = _num_gpus(asked_gpus)
    update_tokens, max_tokens = args.update_tokens, args.max_tokens
    if not num_gpus:
        update_tokens = args.cpu_update_tokens or update_tokens
        max_tokens = args.cpu_max_tokens or max_tokens
    update = divide_update(max(num_gpus, 1), update_tokens, max_tokens)
    logger.info("== devices x max-tokens x update-freq: %s", update)
    precision = args.precision
    if _CHOOSE_PRECISION & set(args.command):
        precision = "fp32"  # the command sets its own precision, so no option is added
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
            raise UserError(f"N_GPUS={asked}: must be a whole number; 0 trains on the CPU")
        return int(asked)
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


# ------------------------------------------------------------------------------- precision


def _precision_of_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "fp32"  # there are no GPUs although N_GPUS requests them; fairseq-train reports it
    return "bf16" if torch.cuda.is_bf16_supported(False) else "fp16"


def _precision_of_resumed(command: Sequence[str]) -> str | None:
    """Return the precision of the training that ``command`` resumes; None for a new training.

    fairseq cannot resume a training in another precision, and a new measurement might choose
    another one. The precision is read from the train.log that the scripts write; without a log it
    is taken to be fairseq's default, fp32.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--save-dir", default="checkpoints")
    save_dir = finder.parse_known_args(command)[0].save_dir
    if not os.path.isfile(os.path.join(save_dir, "checkpoint_last.pt")):
        return None
    log = os.path.join(save_dir, "train.log")
    precision = (last_precision(log) if os.path.isfile(log) else None) or "fp32"
    logger.info("== resuming in %s, as the training began (--precision overrides this)", precision)
    return precision


def _precision_of_cpu(width: int) -> str:
    rates = time_products(width)
    fastest = max(rates, key=rates.__getitem__)
    figures = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    logger.info(
        "== matrix products on this CPU: %s; training in %s (--precision overrides this)",
        figures,
        fastest,
    )
    return fastest


def time_products(width: int) -> dict[str, float]:
    """Return the speed of matrix products on this CPU in fp32 and bf16, in FLOP/s by precision.

    The products are those of a feed-forward layer and its gradients, with torch's number of
    threads. The precisions alternate, so that other work on the machine slows both, and the
    fastest run of each counts.

    Args:
        width: width of the model; the feed-forward layer is four times as wide.
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
            step()  # warm up
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

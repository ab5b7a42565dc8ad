"""Functions shared by all benchmarks: options, alternating rounds, ratios, result pages."""

import argparse
import contextlib
import datetime
import importlib.metadata
import logging
import math
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, Sequence

import flops
import torch
from tabulate import tabulate
from torch.backends import mkldnn

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
USER_DIR = str(ROOT / "user_dir")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# torch's default, read before the plug-in is imported, which may change it.
_AS_TORCH_COMES = mkldnn.matmul.fp32_precision
# When this process began, for --seconds.
_BEGAN = time.monotonic()


@contextlib.contextmanager
def as_torch_comes() -> Iterator[None]:
    """Compute fp32 products with torch's default library within this block."""
    before = mkldnn.matmul.fp32_precision
    mkldnn.matmul.fp32_precision = _AS_TORCH_COMES
    try:
        yield
    finally:
        mkldnn.matmul.fp32_precision = before


def add_machine_options(parser: argparse.ArgumentParser):
    """Add the options that every benchmark has: device, precision, rounds, clock."""
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default=None, help="default: cuda if there is a GPU"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=None, help="number of timed rounds")
    parser.add_argument(
        "--seconds",
        type=float,
        default=None,
        help="begin no further round when the benchmark has run for so long (default: no limit)",
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=None,
        help="peak for the model FLOPs utilisation (default: the data sheet's, for known GPUs)",
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: count the process's CPU seconds, for shared cores; use with --threads 1",
    )
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument(
        "--no-write", action="store_true", help="only print the table, do not write to results/"
    )


def settle(args) -> torch.device:
    """Apply the options of :func:`add_machine_options`; exit if this machine cannot run them."""
    logging.disable(logging.INFO)
    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: --device cuda, but torch sees no GPU on this machine")
        sys.exit(0)
    if args.device == "cpu" and args.precision == "fp16":
        print("skipped: --precision fp16 on a CPU (CPUs have no fast fp16 products)")
        sys.exit(0)
    if args.clock == "cpu" and args.device == "cuda":
        print("skipped: --clock cpu measures nothing on a GPU")
        sys.exit(0)
    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return torch.device(args.device)


def wait(device: torch.device):
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def clock(
    step: Callable[[], object],
    device: torch.device,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds that ``step`` takes, including the work of the device."""
    wait(device)
    start = now()
    step()
    wait(device)
    return now() - start


def alternate(
    steps: dict[object, Callable[[], object]],
    rounds: int,
    warmup: int,
    device: torch.device,
    kind: str = "wall",
    seconds_left: float | None = None,
) -> dict[object, list[float]]:
    """Time every step once in each round, so that changes of the machine's speed affect all steps.

    The order rotates from round to round, because a step is slower after one that fills the caches.

    Args:
        steps: the steps by name; a step may be a :class:`workers.Worker`.
        rounds: number of timed rounds.
        warmup: number of rounds before them.
        device: the device to synchronise.
        kind: a key of :data:`CLOCKS`.
        seconds_left: begin no further timed round after so many seconds; one is always timed.

    Returns:
        the seconds of each step in each round.
    """
    names = list(steps)
    ends = math.inf if seconds_left is None else time.monotonic() + seconds_left
    seconds = {name: [] for name in names}
    for number in range(-warmup, rounds):
        if number > 0 and time.monotonic() > ends:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            step = steps[name]
            if hasattr(step, "timed"):  # a worker, in a process of its own
                taken = step.timed(kind)
            else:
                taken = clock(step, device, CLOCKS[kind])
            if number >= 0:
                seconds[name].append(taken)
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r" + " " * 24 + "\r", end="", file=sys.stderr)
    return seconds


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """Return the ratios within each round as text: ``median (lower to upper quartile)``."""
    low, middle, high = quartiles([a / b for a, b in zip(numerators, denominators)])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def rate(count: float, seconds: Sequence[float]) -> str:
    """Return the median of ``count`` per second, as text."""
    return f"{count / statistics.median(seconds):,.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with text in the first column and numbers in the others."""
    columns = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(rows, header, tablefmt="pipe", colalign=columns, disable_numparse=True)


# --------------------------------------------------------------------------- the machine


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def peak_flops(args) -> float:
    """Return the peak in FLOP/s for the utilisation: the given one, or the data sheet's, or 0."""
    if args.peak_tflops:
        return args.peak_tflops * 1e12
    if args.device != "cuda":
        return 0.0
    return flops.data_sheet_peak(torch.cuda.get_device_name(), args.precision)


def mfu_header(peak: float) -> str:
    """Return the title of the column of the model FLOPs utilisation."""
    return f"MFU of {peak / 1e12:,.3g} TFLOP/s"


def seconds_left(args) -> float | None:
    """Return the seconds that ``--seconds`` leaves to this process, or None without a limit."""
    return None if args.seconds is None else args.seconds - (time.monotonic() - _BEGAN)


def version(package: str) -> str:
    """Return the version of an installed package, or "absent"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def circumstances(device: torch.device) -> str:
    """Return the conditions of a measurement: date, device, threads, load, versions, commit."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "fairseq-fixed", "transformers")
    )
    return (
        f"{datetime.datetime.now():%Y-%m-%d %H:%M}, {device_name(device)}, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores{load}, "
        f"Python {platform.python_version()}, {packages}, commit {_commit()}"
    )


def publish(title: str, device: torch.device, body: str, write: bool = True):
    """Print a section, and write it to ``results/<device>.md``.

    The section replaces the one with the same title; other sections stay.

    Args:
        title: title of the section.
        device: the device that was measured.
        body: content of the section.
        write: also write the section to the page.
    """
    command = " ".join(["python", *(shlex.quote(word) for word in sys.argv)])
    section = f"## {title}\n\n{circumstances(device)}\n\n    {command}\n\n{body}\n"
    print("\n" + section, flush=True)
    if not write:
        return
    name = device_name(device)
    page = RESULTS / (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + ".md")
    head, sections = f"# {name}\n", {}
    if page.exists():
        parts = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
        head = parts[0]
        sections = {part.splitlines()[0]: "## " + part for part in parts[1:]}
    sections[title] = section
    RESULTS.mkdir(exist_ok=True)
    partial = page.with_suffix(".md.tmp")
    partial.write_text(
        "\n".join([head.rstrip() + "\n", *(s.rstrip() + "\n" for s in sections.values())])
    )
    os.replace(partial, page)


# ------------------------------------------------------------------ fairseq and its peers


def write_data_folder(folder: Path, vocab_size: int, row_tokens: int, num_rows: int, seed: int):
    """Make a binarised data folder with random rows in the split "train".

    Args:
        folder: an existing folder.
        vocab_size: V, including the four special symbols.
        row_tokens: number of tokens of each row, including ``</s>``.
        num_rows: number of rows.
        seed: random seed.
    """
    from fairseq.data import Dictionary, indexed_dataset

    dictionary = Dictionary()
    for number in range(vocab_size - dictionary.nspecial):
        dictionary.add_symbol(f"w{number}", n=vocab_size - number)
    dictionary.save(str(folder / "dict.txt"))
    generator = torch.Generator().manual_seed(seed)
    prefix = str(folder / "train")
    builder = indexed_dataset.make_builder(prefix + ".bin", impl="mmap", vocab_size=vocab_size)
    for _ in range(num_rows):
        # A skewed distribution of words, as in text.
        skewed = torch.rand(row_tokens, generator=generator) ** 3
        row = dictionary.nspecial + (skewed * (vocab_size - dictionary.nspecial)).int()
        row[-1] = dictionary.eos()
        builder.add_item(row)
    builder.finalize(prefix + ".idx")


def parse_training(words: Sequence[object]):
    """Parse options as ``fairseq-train`` does, and return its config.

    Args:
        words: the options; with ``--user-dir`` they may be those of the plug-in.
    """
    from fairseq import options
    from fairseq.dataclass.initialize import add_defaults
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.utils import import_user_module

    words = [str(word) for word in words]
    if "--user-dir" in words:
        # as fairseq-train does, before the parser is built, so that it has the plug-in's options
        import_user_module(argparse.Namespace(user_dir=words[words.index("--user-dir") + 1]))
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, input_args=words)
    args.tpu = False  # fairseq sets it for --bf16
    cfg = convert_namespace_to_omegaconf(args)
    add_defaults(cfg)
    return cfg


def import_user_dir(path: str = USER_DIR):
    """Import the plug-in, as ``--user-dir`` does."""
    if str(Path(path).parent) not in sys.path:
        sys.path.insert(0, str(Path(path).parent))
    import user_dir  # noqa: F401


def transformers_or_none():
    """Return the module transformers, or print a note and return None if it is not installed."""
    from fairtale.compat.torchaudio import hide_torchaudio

    hide_torchaudio()
    try:
        import transformers
    except ImportError:
        print('Hugging Face is left out: pip install "fairtale[hf]"', file=sys.stderr)
        return None
    transformers.logging.set_verbosity_error()
    return transformers

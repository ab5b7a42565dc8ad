"""The steps of ``gpu_check.py``: each runs commands within its budget and returns Markdown."""

import json
import math
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import check_page
import check_process

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
# Losses of two backends may differ by the order of additions, and by the precision's rounding.
TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 3e-3}
# fairseq gives pytorch_ddp a device number, which a CPU does not have.
NOT_ON_CPU = ("pytorch_ddp",)
SIZES = {
    "cuda": {
        "products": ["--size", 8192],
        "training": ["--rounds", 10, "--dropouts", 0.1],
        "large": [
            *("--arch", "gpt_112m", "--vocab", 32768, "--tokens-per-sample", 1024),
            *("--rounds", 10, "--dropouts", 0.1),
        ],
        "generation": ["--rounds", 5, "--modes", "greedy", "beam 5"],
    },
    "cpu": {
        "products": ["--size", 256, "--rounds", 3],
        "training": [
            *("--arch", "gpt_tiny", "--vocab", 100, "--tokens-per-sample", 32, "--rows", 2),
            *("--rounds", 2, "--dropouts", 0.1, "--threads", 1),
        ],
        "generation": [
            *("--arch", "gpt_tiny", "--vocab", 100, "--tokens-per-sample", 32, "--prompts", 2),
            *("--longest", 8, "--new-tokens", 4, "--rounds", 2, "--modes", "greedy"),
            *("--threads", 1),
        ],
    },
}


class LeftOut(Exception):
    """A step that cannot run here; the message is the reason."""


class Failed(Exception):
    """A step that went wrong.

    Args:
        remark: what went wrong, in one line.
        body: Markdown with what was found before, and the end of the output.
        is_over_budget: whether it only ran for too long.
    """

    def __init__(self, remark: str, body: str = "", is_over_budget: bool = False) -> None:
        super().__init__(remark)
        self.body, self.is_over_budget = body, is_over_budget


@dataclass
class Check:
    """What the steps share.

    Args:
        device: cuda or cpu.
        peers: fairseq and hf, or fewer, to measure beside.
        backends: names of fairseq's backends to go through; None for all that exist.
        compile: also measure with ``--compile``.
        machine: what ``probe_machine.py`` has printed.
    """

    device: str
    peers: list[str]
    backends: list[str] | None = None
    compile: bool = True
    machine: dict[str, Any] = field(default_factory=dict)

    def run(self, words: Sequence[object], seconds: float) -> check_process.Done:
        """Run this Python with ``words``."""
        # One process needs no network, and many machines with a GPU have none.
        loopback = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            **loopback,
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
        }
        return check_process.run([sys.executable, *words], seconds, env)


def checked(done: check_process.Done, body: str = "") -> str:
    """Return the output of a command that went well; raise :class:`Failed` for another."""
    if done.is_over_budget:
        remark = f"ended after {done.seconds:.0f} s, its budget"
    elif done.status != 0:
        last = (done.output.strip().splitlines() or ["no output"])[-1]
        remark = f"exit status {done.status}: {last[:200]}"
    else:
        return done.output
    parts = [body, check_page.tail(done.output)]
    raise Failed(remark, "\n\n".join(filter(None, parts)), done.is_over_budget)


def last_json(output: str) -> Any:
    """Return the last line of an output that is an object of JSON."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    raise Failed("the command printed no result", check_page.tail(output))


# ----------------------------------------------------------------------------- the machine


def tested_version(package: str) -> str:
    """Return a package's version in ``constraints.txt``, or an empty text."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def peak_of(machine: dict[str, Any], precision: str) -> tuple[float, str]:
    """Return the peak for the utilisation in TFLOP/s, and where it comes from."""
    peaks = machine["peaks"][precision]
    if peaks["data sheet"]:
        return peaks["data sheet"] / 1e12, "data sheet"
    return peaks["measured"] / 1e12, "measured here, because there is no data sheet's for it"


def machine_step(check: Check, seconds: float) -> str:
    """Find name, versions and peaks; the other steps need them."""
    precisions = ["bf16", "fp16"] if check.device == "cuda" else ["bf16"]
    words = [HERE / "probe_machine.py", "--device", check.device, "--precisions", *precisions]
    done = check.run([*words, *SIZES[check.device]["products"]], seconds)
    machine = check.machine
    machine.update(last_json(checked(done)))
    sizes = f"{machine['size']:,} x {machine['size']:,}"
    rows = []
    for precision in precisions:
        peaks = machine["peaks"][precision]
        used, source = peak_of(machine, precision)
        sheet = f"{peaks['data sheet'] / 1e12:,.0f}" if peaks["data sheet"] else "unknown"
        measured = f"{peaks['measured'] / 1e12:,.3g}"
        rows.append([precision, sheet, measured, f"{used:,.3g} ({source})"])
    versions = [
        [name, used, tested_version(name)] for name, used in machine["packages"].items() if used
    ]
    name = machine["name"]
    if "memory GiB" in machine:
        name += f", {machine['memory GiB']} GiB, compute capability {machine['capability']}"
    parts = [
        f"{name}\n\n{machine['circumstances']}",
        check_page.table(
            ["TFLOP/s", "data sheet, dense", f"product of {sizes}", "peak for the utilisation"],
            rows,
        ),
        check_page.table(["package", "version used", "version in constraints.txt"], versions),
    ]
    if check.machine["packages"]["transformers"] == "absent" and "hf" in check.peers:
        check.peers.remove("hf")
        parts.append("Hugging Face is left out: transformers is not installed.")
    if check.device == "cpu":
        parts.append("fp16 is left out everywhere: a CPU has no fast fp16 products.")
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------- the tests


def files_with_gpu_tests() -> list[Path]:
    """Return the test files that use the marker ``gpu``."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [p for p in files if "@pytest.mark.gpu" in p.read_text(encoding="utf-8")]


def count_tests(report: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return how many tests passed, failed and were skipped, and why those did that did not pass.

    Args:
        report: a report of pytest in JUnit's format.
    """
    counts, reasons = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ElementTree.fromstring(report).iter("testcase"):
        word, name = "passed", f"{case.get('classname')}.{case.get('name')}"
        for kind in ("skipped", "failure", "error"):
            found = case.find(kind)
            if found is not None:
                word = "skipped" if kind == "skipped" else "failed"
                message = found.get("message") or found.text or ""
                reasons.append((name, message.strip()[:300]))
        counts[word] += 1
    return counts, reasons


def tests_step(check: Check, seconds: float) -> str:
    """Run the tests with the marker ``gpu``."""
    if check.machine["packages"]["pytest"] == "absent":
        raise LeftOut("pytest is not installed (a wheelhouse has it with EXTRAS=dev)")
    files = files_with_gpu_tests()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        done = check.run([*words, "--rootdir", ROOT, f"--junitxml={report}", *files], seconds)
        if not report.exists():
            checked(done)
            raise Failed("pytest wrote no report", check_page.tail(done.output))
        counts, reasons = count_tests(report.read_text(encoding="utf-8"))
    body = ", ".join(f"{count} {word}" for word, count in counts.items())
    if reasons:
        body += "\n\n" + check_page.table(["test", "why it did not pass"], reasons)
    checked(done, body)
    if not counts["passed"]:
        raise LeftOut(reasons[0][1] if reasons else "no test has the marker gpu")
    return body


# -------------------------------------------------------------------------------- backends


def existing_backends(check: Check) -> list[tuple[str, int | None]]:
    """Return (backend, stage) of every backend that is here; stages are those of ``fsdp2``."""
    found: list[tuple[str, int | None]] = [
        (name, None) for name in ("pytorch_ddp", "legacy_ddp", "no_c10d")
    ]
    if (ROOT / "fairtale" / "distributed").is_dir():
        found += [("fsdp2", stage) for stage in (1, 2, 3)]
    return [pair for pair in found if check.backends is None or pair[0] in check.backends]


def backend_row(
    check: Check, job: tuple[str, int | None, str], seconds: float
) -> tuple[list[object], list[float] | None, str]:
    """Go through one backend; return a row, the losses (None if it went wrong), and the output."""
    backend, stage, precision = job
    name = backend if stage is None else f"{backend} --shard-stage {stage}"
    if check.device == "cpu" and backend in NOT_ON_CPU:
        row = [name, precision, "left out: fairseq gives it a device number, a CPU has none"]
        return row, [], ""
    words = [HERE / "one_process.py", "--device", check.device, "--ddp-backend", backend]
    words += ["--precision", precision, *(["--shard-stage", stage] if stage else [])]
    done = check.run(words, seconds)
    try:
        found = last_json(checked(done))
    except Failed as error:
        return [name, precision, str(error)], None, done.output
    losses = [f"{found['losses'][number]:.4f}" for number in (0, -1)]
    row = [name, precision, "ran", found["group"], found["wrapper"], *losses]
    return row, found["losses"], done.output


def largest_difference(losses: dict[str, list[list[float]]]) -> dict[str, float]:
    """Return for each precision the largest difference of two backends' losses of an update."""
    return {
        precision: max(
            (max(values) - min(values) for values in zip(*(run for run in runs if run))),
            default=0.0,
        )
        for precision, runs in losses.items()
    }


def backends_step(check: Check, seconds: float) -> str:
    """Train and go on in a process group of one process through every backend."""
    precisions = ["fp32", "bf16", "fp16"] if check.device == "cuda" else ["fp32"]
    jobs = [(*pair, precision) for precision in precisions for pair in existing_backends(check)]
    at_once = max(1, min(6, (os.cpu_count() or 1) // 2))
    # Each process may take its share of the budget, twice over, because few take all of it.
    share = min(seconds, max(20.0, 2 * seconds / math.ceil(len(jobs) / at_once)))
    ends = time.monotonic() + seconds

    def go(job: tuple[str, int | None, str]) -> tuple[list[object], list[float] | None, str]:
        left = ends - time.monotonic()
        if left < 3:
            return [job[0], job[2], "left out: no time was left"], None, ""
        return backend_row(check, job, min(share, left))

    with ThreadPoolExecutor(at_once) as pool:
        results = list(pool.map(go, jobs))
    losses: dict[str, list[list[float]]] = {precision: [] for precision in precisions}
    for (_, _, precision), (_, found, _) in zip(jobs, results):
        losses[precision].append(found or [])
    header = ["backend", "precision", "", "group", "wrapper", "first loss", "last loss"]
    rows = [[*row, *[""] * (len(header) - len(row))] for row, _, _ in results]
    body = check_page.table(header, rows) + (
        "\n\nOne process, two commands: 3 updates, and 3 more from the checkpoint. Largest "
        "difference between the losses of two backends: "
    )
    differences = largest_difference(losses)
    body += ", ".join(f"{value:.1e} in {name}" for name, value in differences.items()) + "."
    wrong = [(row, output) for row, found, output in results if found is None]
    if wrong:
        for row, output in wrong:
            body += f"\n\n{row[0]}, {row[1]}:\n\n{check_page.tail(output, 12)}"
        raise Failed(f"{len(wrong)} of {len(jobs)} did not end well", body)
    apart = [name for name, value in differences.items() if value > TOLERANCES[name]]
    if apart:
        raise Failed(f"the backends' losses differ in {', '.join(apart)}", body)
    return body


# ------------------------------------------------------------------------------ the tables


def why_not_compile() -> str:
    """Return why torch.compile cannot work on this machine, or nothing."""
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "torch.compile needs a C compiler, and there is none"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "torch.compile needs Python.h, which is not installed"
    return ""


def benchmark(
    check: Check, script: str, words: Sequence[object], precision: str, seconds: float
) -> str:
    """Run a benchmark and return its section without title; it stops itself within its budget."""
    if check.device == "cpu" and precision == "fp16":
        raise LeftOut("fp16 on a CPU (CPUs have no fast fp16 products)")
    peak, source = peak_of(check.machine, precision)
    common = ["--device", check.device, "--precision", precision, "--no-write"]
    common += ["--peak-tflops", f"{peak:.6g}", "--seconds", f"{0.8 * seconds:.0f}"]
    done = check.run([HERE / script, *words, *common], seconds)
    found = re.search(r"^## .*\n+([\s\S]*)", checked(done), re.MULTILINE)
    if not found:
        raise Failed("the benchmark printed no table", check_page.tail(done.output))
    return f"{found[1].strip()}\n\nPeak: {peak:,.3g} TFLOP/s, {source}."


def with_fallback(
    check: Check, script: str, tries: Sequence[Sequence[object]], precision: str, seconds: float
) -> str:
    """Run a benchmark with the first options that work; name what went wrong with those before."""
    ends = time.monotonic() + seconds
    errors = ""
    for number, words in enumerate(tries):
        left = ends - time.monotonic()
        try:
            body = benchmark(check, script, words, precision, left)
        except Failed as error:
            errors += f"\n\nWith `{' '.join(map(str, words))}`: {error}\n\n{error.body}"
            if error.is_over_budget or number == len(tries) - 1:
                raise Failed(str(error), errors, error.is_over_budget) from None
            continue
        if errors:
            raise Failed("only a part could be measured", body + errors)
        return body
    raise Failed("nothing was measured", errors)


def rows_of(check: Check, size: str) -> list[object]:
    """Return the option with the rows of an update, which all entrants must hold at once.

    On a GPU with 78 GiB, these are 256 rows of 256 tokens, or 16 of 1,024; on others fewer.
    """
    if check.device == "cpu":
        return []
    memory = check.machine["memory GiB"]
    divisor = next((d for least, d in ((70, 1), (35, 2), (20, 4)) if memory >= least), 8)
    return ["--rows", {"training": 256, "large": 16}[size] // divisor]


def train_step(check: Check, precision: str, size: str, seconds: float) -> str:
    """Time updates with and without ``--compile``, beside the peers."""
    sizes = SIZES[check.device]
    if size not in sizes:
        raise LeftOut(f"the larger model on a {check.device.upper()}")
    reason = why_not_compile() if check.compile else "it was not asked for"
    words = [*sizes[size], *rows_of(check, size)]
    full = [*words, *([] if reason else ["--compile"]), "--peers", *check.peers]
    bare = [*words, "--peers"]
    body = with_fallback(check, "train_speed.py", [full, bare], precision, seconds)
    return body + (f"\n\n--compile is left out: {reason}." if reason else "")


def generate_step(check: Check, precision: str, seconds: float) -> str:
    """Time generation beside the peers; ``--compile`` is an option of training."""
    words = SIZES[check.device]["generation"]
    tries = [[*words, "--peers", *check.peers], [*words, "--peers"]]
    return with_fallback(check, "generate_speed.py", tries, precision, seconds)

"""Show how a training gets on: its log on standard input, updates and samples on standard output.

  bash train.sh ... | fairtale log progress

Printed are the perplexities of updates and of validations, the first sample of each validation
(see --sample-prompts of the tasks), and lines that name an error.
"""

import argparse
import re
import sys

from ..data.training_log import parse_line

# as generation/sample_log.py writes them: the prompt, a bar, the continuation
_SAMPLE = re.compile(r"sample 0 @ \d+ updates: ([^|]*)\|?(.*)")
_ERROR = re.compile(r"^error|^Traceback|Error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    # Samples may hold any bytes; a strange one must not end the view of a long training.
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    for line in sys.stdin:
        told = describe(line)
        if told is not None:
            print(told, flush=True)


def describe(line: str) -> str | None:
    """Return what to tell about a line of the log, None to leave it out."""
    line = line.rstrip("\n")
    sample = _SAMPLE.search(line)
    if sample:
        return f"  a sample: {sample[1]}{sample[2]}"
    entry = parse_line(line)
    if entry is not None and "ppl" in entry.stats and entry.kind != "end":
        what = "" if entry.kind == "inner" else " of held-out text"
        update, perplexity = entry.stats.get("num_updates", 0), entry.stats["ppl"]
        return f"update {update:.0f}, perplexity{what} {perplexity:.10g}"
    return line if _ERROR.search(line) else None

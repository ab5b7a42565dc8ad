"""Summarise the log of a running training, which is read from standard input.

  bash train.sh ... | fairtale log progress

The verb prints the perplexities of updates and validations, the first sample of each validation
(see the tasks' option --sample-prompts), and lines that report an error.
"""

import argparse
import re
import sys

from ..data.training_log import parse_line

# The format of generation/sample_log.py: the prompt, a vertical bar, the continuation.
_SAMPLE = re.compile(r"sample 0 @ \d+ updates: ([^|]*)\|?(.*)")
_ERROR = re.compile(r"^error|^Traceback|Error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the verb has no options."""


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    # Samples may be invalid UTF-8, which must not end this command during a long training.
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    for line in sys.stdin:
        text = describe(line)
        if text is not None:
            print(text, flush=True)


def describe(line: str) -> str | None:
    """Return the text to print for a line of the log, or None to print nothing."""
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

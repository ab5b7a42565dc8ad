"""The page of ``gpu_check.py``, which is written again after every step."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WAITING, RUNNING = "waiting", "running"
PASSED, LEFT_OUT, FAILED, STOPPED = "passed", "left out", "failed", "stopped"


@dataclass
class Section:
    """What the page says of one step.

    Args:
        title: title of the step.
        budget: seconds that it may take at most.
        outcome: one of the words above.
        remark: one line: what was left out, or what went wrong.
        took: seconds, once it has ended.
        body: Markdown.
    """

    title: str
    budget: float
    outcome: str = WAITING
    remark: str = ""
    took: float | None = None
    body: str = ""


class Page:
    """A Markdown page with a table of all steps and a section for each one that has begun.

    Args:
        path: the file; its folder is made. An older file is replaced at the first writing.
        head: Markdown above the table.
        sections: the steps.
    """

    def __init__(self, path: Path, head: str, sections: Iterable[Section]) -> None:
        self.path, self.head, self.sections = path, head, list(sections)

    def text(self) -> str:
        """Return the page."""
        rows = ["| step | outcome | took | may take | remark |", "|---|---|---|---|---|"]
        for section in self.sections:
            took = "" if section.took is None else f"{section.took:.0f} s"
            rows.append(
                f"| {section.title} | {section.outcome} | {took} | {section.budget:.0f} s "
                f"| {cell(section.remark)} |"
            )
        parts = [self.head.strip(), "\n".join(rows)]
        for section in self.sections:
            if section.outcome == WAITING:
                continue
            remark = f": {section.remark}" if section.remark else ""
            parts.append(f"## {section.title}\n\n{section.outcome}{remark}")
            parts.append(section.body.strip())
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self) -> None:
        """Write the page so that it is there whole or as it was before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(self.text(), encoding="utf-8")
        os.replace(partial, self.path)


def cell(text: str) -> str:
    """Return text in one line that cannot end a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(header), *([str(value) for value in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def tail(output: str, lines: int = 25) -> str:
    """Return the end of a command's output as a block of code."""
    return "\n".join("    " + line[:400] for line in output.strip().splitlines()[-lines:])

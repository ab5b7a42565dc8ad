"""Draw the gates of trainings over time: an animation of one run, or curves of several runs.

A run is the --save-dir of a training with --criterion l0_gated. Its gates.jsonl holds the gates at
each validation; BLEU and loss are read from its train.log if there is one.

A .gif shows P(open) of every head, with a row for each layer, a column for each head, and a frame
for each validation. A .png shows BLEU, the translation loss of the validation set (bits per token)
and the number of open heads over the updates, with the curves of all runs.
"""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from typing import Any

from ..data.training_log import read_log
from ..errors import UserError
from ..pruning.gate_history import HISTORY_NAME, GateRecord, read_history
from ..pruning.gate_pictures import heat_map, pixels
from .argument_types import positive_int
from .files import whole_file
from .optional import require
from .plot import LOG_NAME, short_names

logger = logging.getLogger(__name__)

RENAMED_OPTIONS = {"--out": "--output"}

Curves = dict[str, list[tuple[int, float]]]  # title of a panel -> [(update, value), ...]

_PANEL_INCHES = (4.6, 3.8)
# Title of a panel -> metrics of train.log, of which the first that is present is drawn.
_FROM_LOG = {
    "BLEU": ("bleu", "sacrebleu"),
    "translation loss (bits per token)": ("translation_loss", "loss"),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("run", nargs="+", help="save-dir of a training, with its gates.jsonl")
    parser.add_argument(
        "--output",
        nargs="+",
        metavar="FILE",
        help="files to write: a .gif, a .png, or both (default: gates.png and gates.gif in the "
        "folder of the run; for several runs gates.png in the current folder)",
    )
    parser.add_argument(
        "--names", nargs="+", metavar="N", help="names of the runs in the legend, one for each"
    )
    parser.add_argument("--title", help="title of the curves")
    parser.add_argument(
        "--milliseconds",
        type=positive_int,
        default=400,
        metavar="N",
        help="duration of a frame; the last frame is shown longer (default: %(default)s)",
    )
    parser.add_argument(
        "--frames",
        type=positive_int,
        default=100,
        metavar="N",
        help="maximum number of frames, which are spread evenly (default: %(default)s)",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    outputs = args.output or default_outputs(args.run)
    for path in outputs:
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in (".gif", ".png"):
            raise UserError(f"--output {path}: must end in .gif (animation) or .png (curves)")
        if suffix == ".gif" and len(args.run) > 1:
            raise UserError(
                f"--output {path}: an animation shows one run, but {len(args.run)} are given"
            )
    if args.names and len(args.names) != len(args.run):
        raise UserError(f"--names: {len(args.names)} names for {len(args.run)} runs")
    require("matplotlib", extra="plots")
    names = args.names or short_names(args.run)
    if len(set(names)) < len(names):
        raise UserError(f"--names: the runs need different names, not {' '.join(names)}")
    histories = [read_history(os.path.join(path, HISTORY_NAME)) for path in args.run]
    for path in outputs:
        if path.lower().endswith(".gif"):
            frames = evenly(histories[0], args.frames)
            _animate(frames, path, args.milliseconds)
            print(f"{len(frames)} frames of {names[0]} -> {path}")
        else:
            titles = _draw_curves(args, names, histories, path)
            print(f"{', '.join(titles)} of {', '.join(names)} -> {path}")


def default_outputs(runs: list[str]) -> list[str]:
    """Return the files to write if none are given: beside the history of a single run."""
    if len(runs) > 1:
        return ["gates.png"]
    return [os.path.join(runs[0], name) for name in ("gates.png", "gates.gif")]


def evenly(records: list[GateRecord], most: int) -> list[GateRecord]:
    """Return at most ``most`` evenly spaced records, including the first and the last one."""
    if len(records) <= most:
        return records
    if most == 1:
        return records[-1:]
    return [records[round(i * (len(records) - 1) / (most - 1))] for i in range(most)]


def _animate(records: list[GateRecord], path: str, milliseconds: int) -> None:
    from PIL import Image

    width = len(str(records[-1]["update"]))
    pictures = [
        Image.fromarray(
            pixels(heat_map(record["open_probability"], f"{record['update']:>{width}} updates"))
        )
        for record in records
    ]
    durations = [milliseconds] * (len(pictures) - 1) + [5 * milliseconds]
    with whole_file(path, "wb") as stream:
        pictures[0].save(
            stream,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
        )


def _draw_curves(
    args: Namespace, names: list[str], histories: list[list[GateRecord]], path: str
) -> list[str]:
    """Draw the panels for which there is data, and return their titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [_curves(run) for run in args.run]
    titles = [title for title in _FROM_LOG if any(title in c for c in curves)] + ["open heads"]
    figure = Figure(
        figsize=(_PANEL_INCHES[0] * len(titles), _PANEL_INCHES[1]), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for panel, title in zip(panels, titles, strict=True):
        for number, (name, history, has) in enumerate(zip(names, histories, curves, strict=True)):
            style = {"color": f"C{number % 10}", "markersize": 3.5}
            if title == "open heads":
                _draw_heads(panel, name, history, style)
            elif title in has:
                panel.plot(*zip(*has[title], strict=True), marker="o", label=name, **style)
        panel.set_title(title, fontsize="medium")
        panel.set_xlabel("updates")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    if args.title:
        figure.suptitle(args.title)
    with whole_file(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=120)
    return titles


def _draw_heads(panel: Any, name: str, history: list[GateRecord], style: dict[str, Any]) -> None:
    """Draw the expected number of open heads, and the number of gates that are not zero."""
    updates = [record["update"] for record in history]
    expected = [sum(map(sum, record["open_probability"].values())) for record in history]
    opened = [sum(x > 0 for row in record["value"].values() for x in row) for record in history]
    panel.plot(updates, expected, label=f"{name}, expected", **style)
    panel.plot(updates, opened, linestyle=":", marker="o", label=f"{name}, not zero", **style)
    panel.set_ylim(bottom=0)


def _curves(run: str) -> Curves:
    """Return the curves of the validations in a run's log; empty if there is no log."""
    path = os.path.join(run, LOG_NAME)
    if not os.path.isfile(path):
        logger.info("%s: no %s in this folder, so BLEU and loss are not drawn", run, LOG_NAME)
        return {}
    log = read_log(path)
    found: Curves = {}
    for title, metrics in _FROM_LOG.items():
        for metric in metrics:
            subsets = [s for s, has in log if has == metric and s != "train"]
            if subsets:
                found[title] = log["valid" if "valid" in subsets else subsets[0], metric]
                break
    return found

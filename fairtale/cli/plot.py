"""Draw the training and validation curves of one or several fairseq runs as a PNG file.

A run is a training log or a folder that holds train.log, written with --log-format json or simple.
A resumed run is one curve: if it went back to a checkpoint, later values replace earlier ones.
fairseq logs losses in base 2 (bits).
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..data.training_log import RESERVED_METRICS, Curves, read_log
from ..errors import UserError
from .files import whole_file
from .optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_NAME = "train.log"
# Metrics that are drawn without --metrics, as far as the logs contain them.
DEFAULT_METRICS = ("loss", "ppl", "bpb", "lr")
_PANEL_INCHES = (5.5, 4.0)
_PANELS_A_ROW = 2
# A metric whose values span more than this factor is drawn on a logarithmic axis.
_LOGARITHMIC_FROM = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("run", nargs="+", help="a log file, or a folder with train.log")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="PNG file to write (default: curves.png, in the folder of a single run)",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="M",
        help="metrics to draw, by their names in the log "
        f"(default: {' '.join(DEFAULT_METRICS)}, as far as the log has them)",
    )
    parser.add_argument(
        "--names", nargs="+", metavar="N", help="names of the runs in the legend, one for each"
    )
    parser.add_argument("--title", help="title of the figure")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    require("matplotlib", extra="plots")
    if args.names and len(args.names) != len(args.run):
        raise UserError(f"--names: {len(args.names)} names for {len(args.run)} runs")
    paths = [_log_path(path) for path in args.run]
    names = args.names or short_names(args.run)
    runs = {name: read_log(path) for name, path in zip(names, paths, strict=True)}
    if len(runs) < len(paths):
        raise UserError(f"--names: the runs need different names, not {' '.join(names)}")
    metrics = _choose_metrics(args.metrics, runs)
    figure = _draw(runs, metrics, args.title)
    output = args.output or default_output(args.run)
    with whole_file(output, "wb") as stream:
        figure.savefig(stream, format="png", dpi=120)
    print(f"{', '.join(metrics)} of {', '.join(names)} -> {output}")


def default_output(runs: Sequence[str]) -> str:
    """Return the file to write if none is given: beside the log of a single run."""
    folder = (
        "" if len(runs) > 1 else runs[0] if os.path.isdir(runs[0]) else os.path.dirname(runs[0])
    )
    return os.path.join(folder, "curves.png")


def _log_path(run: str) -> str:
    if not os.path.isdir(run):
        return run
    path = os.path.join(run, LOG_NAME)
    if not os.path.isfile(path):
        raise UserError(f"{run}: no {LOG_NAME} in this folder; give the log file itself")
    return path


def short_names(runs: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths, in whole folders, that are all different.

    Raises:
        UserError: two paths are equal.
    """
    parts = [os.path.abspath(run).split(os.sep) for run in runs]
    parts = [path[:-1] if path[-1] == LOG_NAME else path for path in parts]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the same run is named twice: {' '.join(runs)}")


def _choose_metrics(asked: Sequence[str] | None, runs: Mapping[str, Curves]) -> list[str]:
    present = {metric for curves in runs.values() for _, metric in curves} - RESERVED_METRICS
    if not asked:
        chosen = [metric for metric in DEFAULT_METRICS if metric in present]
        return chosen or sorted(present)[:4]
    missing = [metric for metric in asked if metric not in present]
    if missing:
        raise UserError(
            f"--metrics {' '.join(missing)}: not in the logs; they contain "
            f"{' '.join(sorted(present))}"
        )
    return list(dict.fromkeys(asked))


def _draw(runs: Mapping[str, Curves], metrics: Sequence[str], title: str | None) -> "Figure":
    """Draw one panel for each metric, with one colour for each run."""
    # Without pyplot, which keeps global state and may need a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_PANELS_A_ROW, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(
        figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, metric in zip(panels, metrics, strict=False):
        _draw_panel(panel, runs, metric)
    for panel in list(panels):  # hide the unused panels of the last row
        panel.set_axis_off()
    if title:
        figure.suptitle(title)
    return figure


def _draw_panel(panel: "Axes", runs: Mapping[str, Curves], metric: str) -> None:
    values: list[float] = []
    for number, (name, curves) in enumerate(runs.items()):
        subsets = [subset for subset, has in curves if has == metric]
        for subset in subsets:
            updates, numbers = zip(*curves[subset, metric], strict=True)
            training = subset == "train"
            panel.plot(
                updates,
                numbers,
                color=f"C{number % 10}",
                linewidth=1.0 if training else 1.8,
                alpha=0.6 if training else 1.0,
                marker=None if training and len(updates) > 1 else "o",
                markersize=4,
                label=f"{name}, {subset}" if len(runs) > 1 else subset,
            )
            values += numbers
    if min(values) > 0 and max(values) / min(values) > _LOGARITHMIC_FROM and metric != "lr":
        panel.set_yscale("log")
    panel.set_title(metric)
    panel.set_xlabel("updates")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")

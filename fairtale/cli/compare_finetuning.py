"""Compare ways to fine-tune a language model in one Markdown table, and as a figure.

For each way give --setting NAME RUN...: its name and its trainings, one for each seed. A run is a
folder with train.log, or a log. The log of fairseq-validate --log-format simple, for the model as
it is, has no updates and no cost. The table shows the last validation of each training: perplexity
per token and per word, and bits per byte; then what was trained, the seconds of training without
validation, and the peak of memory. Several seeds give the mean and the standard deviation.
"""

import argparse
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

from ..data.tuning_runs import Setting, check_comparable, mean_and_spread, read_run
from ..errors import UserError
from .files import whole_file
from .optional import require
from .tables import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = (
    "setting",
    "seeds",
    "ppl per token",
    "ppl per word",
    "bits per byte",
    "trained parameters",
    "seconds",
    "peak MiB",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--setting",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "RUN"),
        help="a name and one or several runs; may be repeated",
    )
    parser.add_argument("--subset", help="validation subset to read from the logs (default: any)")
    parser.add_argument(
        "--output", metavar="FILE", help="file for the table (default: standard output)"
    )
    parser.add_argument("--figure", metavar="FILE", help="PNG file to draw")
    parser.add_argument("--title", help="title of the figure")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    if args.figure:
        require("matplotlib", extra="plots")
    names = [name for name, *_ in args.setting]
    if len(set(names)) < len(names):
        raise UserError(f"--setting: the names must be different, not {', '.join(names)}")
    settings = []
    for name, *paths in args.setting:
        if not paths:
            raise UserError(f"--setting {name}: give at least one run after the name")
        if len(set(paths)) < len(paths):
            raise UserError(f"--setting {name}: a run is named twice: {' '.join(paths)}")
        settings.append(Setting(name, tuple(read_run(path, args.subset) for path in paths)))
    check_comparable(settings)
    text = table(HEADS, map(_row, settings), as_markdown=True)
    if args.figure:
        figure = _draw(settings, args.title)
        with whole_file(args.figure, "wb") as stream:
            figure.savefig(stream, format="png", dpi=120)
    if args.output is None:
        print(text)
        return
    with whole_file(args.output) as stream:
        print(text, file=stream)
    print(f"{len(settings)} settings -> {args.output}")


def _row(setting: Setting) -> tuple[str, ...]:
    params = sorted({run.trained_params for run in setting.runs})
    if len(params) > 1:
        raise UserError(
            f"--setting {setting.name}: its runs train {' and '.join(map(str, params))} "
            "parameters; the runs of a setting may differ in their seed only"
        )
    return (
        setting.name,
        str(len(setting.runs)),
        mean_and_spread(setting.values("ppl"), 2),
        mean_and_spread(setting.values("ppl_word"), 1),
        mean_and_spread(setting.values("bpb"), 4),
        f"{params[0]:,}",
        mean_and_spread(setting.values("seconds"), 0),
        mean_and_spread(setting.values("peak_mib"), 0),
    )


def _draw(settings: Sequence[Setting], title: str | None) -> "Figure":
    """Draw the perplexity of each setting: a stroke for the mean, a dot for each seed."""
    # Without pyplot, which keeps global state and may need a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 1.2 + 0.42 * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for place, setting in enumerate(settings):
        values = setting.values("ppl")
        panel.plot(values, [place] * len(values), "o", color="C0", markersize=5, alpha=0.6)
        panel.plot(mean(values), place, "|", color="C0", markersize=18, markeredgewidth=2)
        panel.annotate(
            f"{mean(values):.2f}",
            (max(values), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    panel.margins(x=0.15, y=0.1)
    panel.set_yticks(range(len(settings)), [setting.name for setting in settings])
    panel.invert_yaxis()
    panel.set_xlabel("validation perplexity per token")
    panel.grid(alpha=0.3)
    if title:
        panel.set_title(title, fontsize="medium")
    return figure

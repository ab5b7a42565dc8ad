"""Draw the speed ratios of fairtale and its peers from a results page.

python benchmarks/plot_speed.py benchmarks/results/amd_epyc.md --output docs/speed.png
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# (name, dropout) of a row of a results table -> (group of bars, peer). Other rows are not drawn.
ROWS = {
    ("fairseq transformer_lm_gpt", "0.1"): ("training", "fairseq"),
    ("Hugging Face GPT-2, bare loop", "0.1"): ("training", "Hugging Face"),
    ("greedy: fairseq stock generator", None): ("greedy", "fairseq"),
    ("greedy: Hugging Face generate", None): ("greedy", "Hugging Face"),
    ("top-k 10: fairseq stock generator", None): ("top-k 10", "fairseq"),
    ("top-k 10: Hugging Face generate", None): ("top-k 10", "Hugging Face"),
    ("beam 5: fairseq stock generator", None): ("beam 5", "fairseq"),
    ("beam 5: Hugging Face generate", None): ("beam 5", "Hugging Face"),
}
COLOURS = {"fairseq": "#4269d0", "Hugging Face": "#efb118"}
_RATIO = re.compile(r"([\d.]+) \([\d.]+ to [\d.]+\)")


class Bar(NamedTuple):
    """One ratio: how many times faster fairtale is than ``peer`` in ``group``."""

    group: str
    peer: str
    ratio: float


def read_bars(page: Path) -> list[Bar]:
    """Return the ratios of a results page.

    Raises:
        SystemExit: the page holds no such ratio.
    """
    bars = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for (name, dropout), (group, peer) in ROWS.items():
            if cells[0] != name or (dropout is not None and cells[1] != dropout):
                continue
            found = _RATIO.search(line)
            if found:
                bars.append(Bar(group, peer, float(found[1])))
    if not bars:
        raise SystemExit(f"error: {page} holds no ratio; make it with 'make bench'")
    return bars


def draw(bars: list[Bar], title: str) -> Figure:
    """Draw horizontal bars by group, with the ratio beside each bar."""
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    groups = list(dict.fromkeys(bar.group for bar in bars))
    height = 0.38
    for bar in bars:
        place = groups.index(bar.group) + (-0.5 if bar.peer == "fairseq" else 0.5) * height
        axes.barh(place, bar.ratio, height, color=COLOURS[bar.peer])
        axes.text(bar.ratio + 0.06, place, f"{bar.ratio:.2f} x", va="center", fontsize=9)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(bar.ratio for bar in bars))
    axes.set_xlabel("fairtale's speed, divided by the peer's")
    axes.set_title(title, fontsize="medium", loc="left")
    handles = [figure_patch(colour) for colour in COLOURS.values()]
    axes.legend(handles, [f"beside {peer}" for peer in COLOURS], frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def figure_patch(colour: str) -> object:
    """Return the coloured square of a legend."""
    from matplotlib.patches import Patch

    return Patch(color=colour)


def main() -> None:
    """Read the page and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="results/DEVICE.md")
    parser.add_argument("--output", type=Path, required=True, help="PNG or SVG file to write")
    args = parser.parse_args()
    device = args.page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    title = f"22M parameters, fp32, one core of an {device}; 1 is as fast as the peer"
    draw(read_bars(args.page), title).savefig(args.output, dpi=150)
    print(f"{args.output}")


if __name__ == "__main__":
    main()

"""Draw the open probabilities of gates as heat maps, with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .parts import type_of, types_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Colour map of matplotlib for the cells, from closed (0) to open (1).
COLOUR_MAP = "viridis"
# Colours of the numbers; the cells of closed heads are dark, those of open heads are bright.
COLOUR_ON_CLOSED = "white"
COLOUR_ON_OPEN = "black"


def heat_map(open_probability: dict[str, list[float]], title: str) -> Figure:
    """Draw P(open) of all heads.

    The picture has a panel for each attention type, with a row for each layer and a column for each
    head.

    Args:
        open_probability: P(open) of the heads of each attention, keyed as "encoder.0".
        title: title above the panels.

    Returns:
        A figure of matplotlib, which needs no display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = open_probability
    panels_of = {
        kind: {k: v for k, v in rows.items() if type_of(k) == kind} for kind in types_of(rows)
    }
    widths = [max(map(len, panel.values())) for panel in panels_of.values()]
    height = max(map(len, panels_of.values()))
    figure = Figure(
        figsize=(1.6 + sum(max(0.5 * w, 1.6) for w in widths), 1.4 + 0.45 * height),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for panel, (kind, layers) in zip(panels, panels_of.items(), strict=True):
        image = _draw_panel(panel, kind, layers)
    figure.colorbar(image, ax=list(panels), label="P(open)")
    figure.suptitle(title, fontsize="medium")
    return figure


def _draw_panel(panel: Any, kind: str, rows: dict[str, list[float]]) -> AxesImage:
    """Draw one attention type; layers with fewer heads than others have empty cells."""
    width = max(map(len, rows.values()))
    table = [list(row) + [float("nan")] * (width - len(row)) for row in rows.values()]
    image: AxesImage = panel.imshow(table, vmin=0, vmax=1, cmap=COLOUR_MAP, aspect="equal")
    for y, row in enumerate(rows.values()):
        for x, p in enumerate(row):
            colour = COLOUR_ON_OPEN if p > 0.5 else COLOUR_ON_CLOSED
            panel.text(x, y, _short(p), ha="center", va="center", fontsize=6, color=colour)
    num_open, num_heads = sum(map(sum, rows.values())), sum(map(len, rows.values()))
    panel.set_title(f"{kind} ({num_open:.1f} of {num_heads} open)", fontsize="small")
    panel.set_xlabel("head")
    panel.set_ylabel("layer")
    panel.set_xticks(range(width), [str(x + 1) for x in range(width)], fontsize="x-small")
    layers = [str(int(key.split(".")[1]) + 1) for key in rows]
    panel.set_yticks(range(len(rows)), layers, fontsize="x-small")
    return image


def _short(probability: float) -> str:
    """Format a probability with three characters: ``.07``, ``.50``, ``1.0``."""
    return "1.0" if probability >= 0.995 else f"{probability:.2f}".removeprefix("0")


def pixels(figure: Figure) -> np.ndarray[Any, Any]:
    """Render a figure as an array, uint8 [height, width, 3]."""
    import numpy as np

    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]

"""The history of a model's gates, ``gates.jsonl``, and pictures of it.

Needs neither torch nor fairseq; pictures need matplotlib.
"""

import json
import os

from ..errors import UserError

HISTORY_NAME = "gates.jsonl"


def append_record(path, record):
    """Append ``record`` to a history.

    Args:
        path: of the file, made where there is none.
        record: dict of ``update`` (int), ``open_probability`` ({"encoder.0": [numbers]}) and
            whatever else is to be kept.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def read_history(path):
    """Return the records of a history, in order of updates.

    Where a resumed run repeats updates, what was written first is dropped. A last line that
    was cut off (the run was killed) is passed over.

    Raises:
        UserError: no such file, no record in it, or it is something else.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; a training with --criterion l0_gated writes it")
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = stream.read().split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            update, shape = record["update"], _shape(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: no record of gates") from None
        while records and (records[-1]["update"] >= update or _shape(records[-1]) != shape):
            records.pop()
        records.append(record)
    if not records:
        raise UserError(f"{path}: no record in it; was the training stopped at once?")
    return records


def _shape(record):
    return {key: len(row) for key, row in record["open_probability"].items()}


def types_of(record):
    """Return the attention types of a record: ``["encoder", "cross"]``."""
    return list(dict.fromkeys(key.split(".")[0] for key in record["open_probability"]))


def heat_map(record, title=None):
    """Draw P(open) of all heads, one panel an attention type, layers down and heads across.

    Returns:
        matplotlib's Figure, drawn without a display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = types_of(record)
    rows = record["open_probability"]
    widths = [max(len(rows[key]) for key in rows if key.split(".")[0] == kind) for kind in kinds]
    height = max(sum(key.split(".")[0] == kind for key in rows) for kind in kinds)
    figure = Figure(
        figsize=(1.6 + sum(max(0.5 * w, 1.6) for w in widths), 1.4 + 0.45 * height),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(kinds), squeeze=False, width_ratios=widths)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        image = _panel(panel, kind, {k: v for k, v in rows.items() if k.split(".")[0] == kind})
    figure.colorbar(image, ax=list(panels), label="P(open)")
    figure.suptitle(title or f"{record['update']} updates", fontsize="medium")
    return figure


def _panel(panel, kind, rows):
    """Layers may have different numbers of heads: what is missing stays empty."""
    width = max(map(len, rows.values()))
    table = [list(row) + [float("nan")] * (width - len(row)) for row in rows.values()]
    image = panel.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="equal")
    for y, row in enumerate(rows.values()):
        for x, p in enumerate(row):
            panel.text(
                x, y, f"{p:.2f}"[-3 if p < 0.995 else 0 :][:3], ha="center", va="center",
                fontsize=6, color="black" if p > 0.5 else "white",
            )  # fmt: skip
    panel.set_title(f"{kind} ({sum(map(sum, rows.values())):.1f} of "
                    f"{sum(map(len, rows.values()))} open)", fontsize="small")  # fmt: skip
    panel.set_xlabel("head")
    panel.set_ylabel("layer")
    panel.set_xticks(range(width), [str(x + 1) for x in range(width)], fontsize="x-small")
    layers = [str(int(key.split(".")[1]) + 1) for key in rows]
    panel.set_yticks(range(len(rows)), layers, fontsize="x-small")
    return image


def pixels(figure):
    """Return a drawn figure as uint8 [height, width, 3]."""
    import numpy as np

    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()

"""Tables of figures, as text or as Markdown."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], as_markdown: bool) -> str:
    """Return rows of ready cells as a table: names at the left, figures at the right.

    Args:
        heads: of the columns, the first of which holds names.
        rows: as many cells as there are columns.
        as_markdown: with bars and a line under the heads.
    """
    return tabulate(
        rows,
        heads,
        tablefmt="pipe" if as_markdown else "plain",
        disable_numparse=True,  # cells stay as they are written
        colalign=("left", *("right" for _ in heads[1:])),
    )

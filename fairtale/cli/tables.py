"""Format tables as plain text or as Markdown."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], as_markdown: bool) -> str:
    """Return a table whose first column is aligned left and whose other columns align right.

    Args:
        heads: heads of the columns.
        rows: formatted cells, one for each column.
        as_markdown: return Markdown instead of plain text.
    """
    return tabulate(
        rows,
        heads,
        tablefmt="pipe" if as_markdown else "plain",
        disable_numparse=True,  # do not reformat the cells
        colalign=("left", *("right" for _ in heads[1:])),
    )

"""Read the Markdown tables that commands print."""


def cells(line):
    """Return the cells of a row."""
    return [cell.strip() for cell in line.strip("|").split("|")]

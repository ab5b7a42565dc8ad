"""Names of the fields of JSON lines, or of the columns of a table, that make up a document."""

from typing import NamedTuple


class FieldNames(NamedTuple):
    """Names of the fields of a record."""

    text: str | None = None  # None: text, or filt_text in a collection of MongoDB
    id: str | None = None  # None: the source's own choice
    work: str | None = None  # records with an equal value share a subset; None: the id

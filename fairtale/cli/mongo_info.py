"""Show the collections of a MongoDB database: their numbers of documents, and faults of idx.

For each collection of the config: documents, the first and the last idx, whole numbers between them
that no document has, documents whose idx an earlier one has, documents without a number in idx, and
whether meta_info states the right number of documents. Nothing is changed.
"""

import argparse
from collections.abc import Iterator
from typing import Any

from ..data.documents.mongo_collections import KEY, IndexedCollection, KeyStatistics, stated_counts
from ..data.documents.mongo_config import META_COLLECTION, load_config
from ..data.documents.mongo_server import DEFAULT_WAIT, MongoServer
from .mongo_import import add_config_argument
from .tables import table

_HEADS = ("collection", "documents", "first", "last", "gaps", "doubles", "no idx", "num_docs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_config_argument(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    config = load_config(args.config)
    server = MongoServer(config, DEFAULT_WAIT)
    server.check()
    stated = stated_counts(server)
    rows, remarks = list[list[str]](), list[str]()
    for name in config.collections:
        found = IndexedCollection(server, name).statistics()
        rows.append([name, *_cells(found), _as_text(stated.get(name))])
        remarks += [f"{name}: {remark}" for remark in _remarks(found, stated.get(name))]
    server.close()
    print(table(_HEADS, rows, args.markdown))
    print(*remarks, sep="\n", end="\n" if remarks else "")


def _cells(found: KeyStatistics) -> list[str]:
    counts = (found.num_missing, found.num_doubles, found.num_without)
    ends = (_as_text(found.first), _as_text(found.last))
    return [f"{found.num_documents:,}", *ends, *(f"{count:,}" for count in counts)]


def _as_text(value: Any) -> str:
    return "-" if value is None else str(value)


def _remarks(found: KeyStatistics, stated: Any) -> Iterator[str]:
    if not found.num_documents:
        yield "is missing or empty; fill it with `fairtale mongo import`"
        return
    if found.num_missing:
        places = ", ".join(f"{a} and {b}" for a, b in found.gaps)
        yield f"{found.num_missing:,} numbers are missing (between {places})"
    if found.num_doubles:
        places = ", ".join(map(str, found.doubles))
        yield (
            f"{found.num_doubles:,} documents have the {KEY} of an earlier one ({places}), and "
            "are left out when it is read"
        )
    if found.num_without:
        yield f"{found.num_without:,} documents have no number in {KEY}, and are never read"
    if found.num_broken:
        yield f"{found.num_broken:,} documents have an {KEY} that is not a whole number"
    if stated is None:
        yield f"{META_COLLECTION} does not name it"
    elif stated != found.num_documents:
        yield (
            f"{META_COLLECTION} states {stated} documents, but there are {found.num_documents}; "
            "`fairtale mongo import` of the same files corrects it"
        )

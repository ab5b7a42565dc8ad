"""Fill a collection of a MongoDB database with works or with questions and answers.

The sources are those of `fairtale documents`: texts, JSON lines and SQLite databases; JSON lines
with the fields q and a are conversations. Documents are numbered from 0 in their order and stored
as {idx, form, filt_text}, with the text as it was read and as it was cleaned, or as {idx, q, a}.
The number of documents is written to the collection meta_info.

An import that was interrupted is finished by the same command, which writes only what is missing.

The config is a JSON object with MONGO_CONNECTION_STRING, MONGO_CONNECTION_DB and COLLECTIONS.
"""

import argparse
import os

from ..data.documents.mongo_collections import state_count
from ..data.documents.mongo_config import MongoConfig, load_config
from ..data.documents.mongo_import import Importer
from ..data.documents.mongo_server import MongoServer
from ..data.documents.records import DocumentReport
from ..data.documents.sources import find_sources, source_files
from ..errors import UserError
from .documents import add_reading_arguments, reading_options
from .progress import progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("source", nargs="+", help="files or folders, which are read in this order")
    add_config_argument(parser)
    parser.add_argument(
        "--collection",
        metavar="NAME",
        help="collection of the config to fill (default: the only one)",
    )
    add_reading_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="JSON file that describes the database"
    )


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    config = load_config(args.config)
    name = _choose_collection(config, args.collection)
    report = DocumentReport(strict=args.strict)
    options, rules = reading_options(args)
    sources = find_sources(args.source, options, report)
    server = MongoServer(config, args.mongo_wait)
    server.check()
    importer = Importer(server, name, rules, report)
    total = sum(map(os.path.getsize, source_files(sources)))
    with progress_bar(total, "B", "importing", unit_scale=True, disable=args.quiet) as bar:
        num_before = importer.run(sources, bar.update)
    if not importer.num_read:
        reasons = "; ".join(f"{kind}: {count}" for kind, count in report.skipped.items())
        raise UserError(f"no document found in {', '.join(args.source)} ({reasons or 'empty'})")
    bounds = importer.collection.find_bounds()
    count = bounds.num_documents if bounds else 0
    state_count(server, name, count)
    server.close()
    for line in report.lines():
        print(line)
    print(f"{name}: {importer.num_written:,} documents written, {num_before:,} were there already")
    if count > importer.num_read:
        print(f"{name}: has {count - importer.num_read:,} further documents")


def _choose_collection(config: MongoConfig, wanted: str | None) -> str:
    listed = ", ".join(config.collections)
    if wanted is None:
        if len(config.collections) > 1:
            raise UserError(
                f"{config.path}: choose one of its collections with --collection: {listed}"
            )
        return config.collections[0]
    if wanted not in config.collections:
        raise UserError(f"--collection {wanted}: {config.path} does not name it; it has: {listed}")
    return wanted

"""Clean works and split them into train.jsonl, valid.jsonl and test.jsonl.

A source is a file or a folder: texts with one work a file (.txt, .md, .html, .fb2), JSON lines or
lists (.jsonl, .json), tables (.csv, .tsv, .parquet), or a SQLite database (.sqlite, .db, or any
file that is one), also while another program writes to it. Texts and JSON may be compressed.
mongo:CONFIG.json names collections of a MongoDB database. Each line of the output is
{"id": ..., "text": ...}, in which a paragraph is a line, or {"id": ..., "q": ..., "a": ...} for a
source of questions and answers. report.json counts the works that were left out, and everything
that was removed.

Markup, lines of author and title at the beginning, licences at the end, and notes are removed; see
docs/documents.md for the rules. A work whose text occurred before is left out.

A hash of the seed and the work's id assigns the work to a subset, or of the seed and its text if
the source has no ids. No work is in two subsets, and works that are added later do not move others.
"""

import argparse
import fnmatch
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..data.corpus.split import SUBSETS, Splitter
from ..data.documents.cleaning import FUNCTIONS, MARKUPS, RULES, CleaningRules, read_documents
from ..data.documents.fields import FieldNames
from ..data.documents.mongo_server import DEFAULT_WAIT
from ..data.documents.records import TURN_SEPARATOR, Document, DocumentReport, DocumentSource
from ..data.documents.sources import SourceOptions, find_sources, source_files
from ..errors import UserError
from .argument_types import fraction, positive_int
from .corpus_output import CorpusOutput, add_loss_argument, write_corpus

DEFAULT_VALID = 0.05
DEFAULT_MAX_CHARS = 5_000_000
DEFAULT_SHARD_DOCUMENTS = 1_000_000

# Options whose values are written to report.json.
_SETTINGS = (
    "valid", "test", "seed", "valid_works", "test_works", "table", "text_field", "id_field",
    "work_field", "markup", "keep", "clean", "max_chars",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "source", nargs="+", help="files, folders or mongo:CONFIG.json, read in this order"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    _add_split(parser.add_argument_group("subsets"))
    add_loss_argument(parser)
    add_reading_arguments(parser)
    _add_shards(parser.add_argument_group("shards of tokens"))
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def _add_shards(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="write tokens for training instead of JSON lines: folder of a model with "
        "tokenizer.json and dict.txt; a run that was killed goes on where it stopped",
    )
    group.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="with --tokenizer: number of processes (default: all CPUs)",
    )
    group.add_argument(
        "--shard-documents",
        type=positive_int,
        metavar="N",
        help="with --tokenizer: documents of each shard of the training set (default: "
        f"{DEFAULT_SHARD_DOCUMENTS:,})",
    )


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`reading_options`, and ``--strict``."""
    _add_fields(parser.add_argument_group("JSON lines, tables and collections"))
    parser.add_argument(
        "--clean",
        choices=tuple(FUNCTIONS),
        help="cleaning function (default: works; none for the field filt_text of a MongoDB "
        "database, which is clean already)",
    )
    parser.add_argument(
        "--mongo-wait",
        type=float,
        default=DEFAULT_WAIT,
        metavar="SECONDS",
        help="how long a MongoDB server that has gone is waited for (default: %(default)g)",
    )
    parser.add_argument(
        "--markup",
        choices=MARKUPS,
        help="markup of all works (default: by the extension of the file; HTML tags are also "
        "removed from plain text)",
    )
    parser.add_argument(
        "--keep",
        action="append",
        choices=RULES,
        default=[],
        help="do not apply a rule; may be repeated (line-breaks: do not join wrapped lines)",
    )
    parser.add_argument(
        "--max-chars",
        type=positive_int,
        default=DEFAULT_MAX_CHARS,
        metavar="N",
        help="maximum length of a work; longer ones are skipped and counted (default: %(default)s)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop with an error at a work that is damaged, too long, not UTF-8 or a duplicate, "
        "instead of skipping it",
    )


def reading_options(args: argparse.Namespace) -> tuple[SourceOptions, CleaningRules]:
    """Return where the documents are in their sources, and how they are cleaned."""
    if not 0 <= args.mongo_wait < float("inf"):
        raise UserError(f"--mongo-wait {args.mongo_wait}: give seconds, 0 or more")
    fields = FieldNames(args.text_field, args.id_field, args.work_field)
    options = SourceOptions(fields, args.table, args.markup, args.max_chars, args.mongo_wait)
    return options, CleaningRules(frozenset(args.keep), args.max_chars, args.clean)


def _add_split(group: argparse._ArgumentGroup) -> None:
    for name, default in (("valid", DEFAULT_VALID), ("test", 0.0)):
        group.add_argument(
            f"--{name}",
            type=fraction,
            metavar="SHARE",
            help=f"share of the works for {name}.jsonl (default: {default:g}, or 0 with "
            f"--{name}-works)",
        )
        group.add_argument(
            f"--{name}-works",
            nargs="+",
            default=[],
            metavar="NAME",
            help=f"ids of works for {name}.jsonl, or patterns such as 'Chekhov*'",
        )
    group.add_argument(
        "--seed", type=int, default=1, help="random seed of the split (default: %(default)s)"
    )


def _add_fields(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--table", metavar="NAME", help="table of a database (default: the only one)"
    )
    group.add_argument(
        "--text-field",
        "--text-column",
        metavar="NAME",
        help="field or column with the text (default: text; filt_text in a MongoDB database)",
    )
    group.add_argument(
        "--id-field",
        "--id-column",
        metavar="NAME",
        help="field or column with the id (default: in JSON, id or title where there is one; in a "
        "table, the row's key)",
    )
    group.add_argument(
        "--work-field",
        "--work-column",
        metavar="NAME",
        help="field or column with the work that a record is a part of, such as the book of a "
        "chapter; the parts of a work share a subset (default: each record is a work)",
    )


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    named = {"valid": args.valid_works, "test": args.test_works}
    for name, default in (("valid", DEFAULT_VALID), ("test", 0.0)):
        if getattr(args, name) is None:
            setattr(args, name, 0.0 if named[name] else default)
    split = WorkSplitter(Splitter(args.seed, args.valid, args.test), named)
    report = DocumentReport(strict=args.strict)
    options, rules = reading_options(args)
    sources = find_sources(args.source, options, report)
    shares = {"valid": args.valid, "test": args.test}
    output = CorpusOutput(
        args.output,
        "work",
        "works",
        "jsonl",
        shares,
        named=[name for name, patterns in named.items() if patterns],
        quiet=args.quiet,
        max_loss=args.max_loss,
    )
    settings = {"settings": {name: getattr(args, name) for name in _SETTINGS}}
    if args.tokenizer:
        _export(args, sources, (options, rules, split), output, report, settings)
        return
    for name in ("workers", "shard_documents"):
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')}: only with --tokenizer")
    read = _reader(sources, rules, report, split)
    write_corpus(output, read, report, source_files(sources), {"sources": args.source, **settings})


def _export(
    args: argparse.Namespace,
    sources: list[DocumentSource],
    how: tuple[SourceOptions, CleaningRules, "WorkSplitter"],
    output: CorpusOutput,
    report: DocumentReport,
    settings: dict[str, Any],
) -> None:
    from .devices import usable_cpus  # these import torch and fairseq
    from .export_shards import Export, collections_of, settings_of
    from .model_tokenizer import checksums, find_model
    from .shard_workers import Plan

    tokenizer, dictionary = find_model(args.tokenizer)
    options, rules, split = how
    plan = Plan(tokenizer, dictionary, rules, options, split, collections_of(sources), args.strict)
    named, contents = settings_of(args.source, sources)
    rows_per_shard = args.shard_documents or DEFAULT_SHARD_DOCUMENTS
    lines = [
        f"tokenizer {checksums(tokenizer, dictionary)}",
        f"shard-documents {rows_per_shard}",
        *(f"{name} {json.dumps(value)}" for name, value in settings["settings"].items()),
        *named,
    ]
    settings = {"sources": args.source, **settings}
    export = Export(sources, plan, output, rows_per_shard, report, settings)
    export.run(lines, contents, args.workers or usable_cpus())


def _reader(
    sources: list[DocumentSource],
    rules: CleaningRules,
    report: DocumentReport,
    split: "WorkSplitter",
) -> Callable[[Callable[[int], object]], Iterator[tuple[str, str]]]:
    def read(on_bytes: Callable[[int], object]) -> Iterator[tuple[str, str]]:
        for work in read_documents(sources, rules, report, on_bytes):
            texts = {"text": work.text}
            if work.is_dialog:
                texts = dict(zip(("q", "a"), work.text.split(TURN_SEPARATOR)))
            yield split.subset(work), json.dumps({"id": work.name, **texts}, ensure_ascii=False)
        split.check_all_found()

    return read


class WorkSplitter:
    """Assign works to subsets: by their ids where these are named, the others by a hash.

    Args:
        splitter: assigns the other works.
        named: ids, or patterns of ids, of the works of ``valid`` and ``test``.
    """

    def __init__(self, splitter: Splitter, named: dict[str, list[str]]) -> None:
        self._splitter = splitter
        self._named = named
        self.found = set[str]()

    def subset(self, work: Document) -> str:
        """Return ``train``, ``valid`` or ``test``.

        Raises:
            UserError: the work is named for two subsets.
        """
        subsets = []
        for subset, patterns in self._named.items():
            names = {work.name, work.group or work.name}
            matching = [p for p in patterns if any(fnmatch.fnmatchcase(n, p) for n in names)]
            self.found.update(matching)
            if matching:
                subsets.append(subset)
        if len(subsets) > 1:
            raise UserError(f"--valid-works, --test-works: both name the work {work.name}")
        return subsets[0] if subsets else self._splitter.subset(work)

    def take_found(self) -> set[str]:
        """Return the names that occurred, and forget them."""
        found, self.found = self.found, set()
        return found

    def add_found(self, names: Iterable[str]) -> None:
        """Add names that occurred elsewhere."""
        self.found.update(names)

    def check_all_found(self) -> None:
        """Refuse a name that no work had.

        Raises:
            UserError: a name was not found.
        """
        for subset in SUBSETS:
            for pattern in self._named.get(subset, ()):
                if pattern not in self.found:
                    raise UserError(f"--{subset}-works {pattern}: no work has this id")

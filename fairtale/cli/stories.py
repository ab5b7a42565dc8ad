"""Clean story files and split them into train.txt, valid.txt and test.txt.

The sources are files, folders or archives, whose formats are recognised: JSON lines or lists, CSV
and parquet with a field story, text or content; text with <|endoftext|> between stories; one story
a line; a folder or archive of .txt files with one story each; and books (.md), which are split into
pieces at the ends of paragraphs. What is not recognised is refused; docs/stories.md has an example
of each format. The output holds one story a line; report.json counts what was skipped.

A hash of the seed and the text assigns a story to a subset. Equal stories therefore share a
subset, and stories that are added later do not move others. The pieces of a chapter of a book also
share a subset.
"""

import argparse
from collections.abc import Callable, Iterator

from ..data.corpus.report import HELD_OUT
from ..data.corpus.source_files import without
from ..data.corpus.split import Splitter, divide
from ..data.story.formats import (
    DEFAULT_MAX_STORY_CHARS,
    DEFAULT_MAX_WORDS,
    StoryLimits,
    find_stories,
    read_stories,
)
from ..data.story.layouts import NAMES
from ..data.story.records import Story, StoryReport
from .argument_types import positive_int
from .corpus_output import (
    CorpusOutput,
    add_held_out_arguments,
    add_loss_argument,
    add_markup_argument,
    add_source_arguments,
    add_split_arguments,
    resolve_shares,
    write_corpus,
)

# Options whose values are written to report.json.
_SETTINGS = (
    "valid", "test", "seed", "valid_source", "test_source", "max_words", "max_story_chars",
    "dedupe", "format", "text_field", "markup", "max_loss",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser, NAMES)
    add_split_arguments(parser, "txt")
    add_held_out_arguments(parser, "stories")
    parser.add_argument(
        "--text-field",
        metavar="NAME",
        help="field or column with the story (default: story, text or content)",
    )
    add_markup_argument(parser, "keep, and count it")
    add_loss_argument(parser)
    parser.add_argument(
        "--max-words",
        type=positive_int,
        default=DEFAULT_MAX_WORDS,
        metavar="N",
        help="maximum number of words of a piece of a book (default: %(default)s)",
    )
    parser.add_argument(
        "--max-story-chars",
        type=positive_int,
        default=DEFAULT_MAX_STORY_CHARS,
        metavar="N",
        help="maximum length of a story; longer ones are skipped and counted "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--dedupe", action="store_true", help="keep only one of several equal stories"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop with an error at a story that is not UTF-8, too long or without a story field, "
        "instead of skipping it",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    report = StoryReport(strict=args.strict)
    given = {"valid": args.valid_source, "test": args.test_source}
    held = {name: find_stories(paths, report) for name, paths in given.items() if paths}
    shares = resolve_shares(args, held)
    splitter = Splitter(args.seed, args.valid, args.test)
    paths = without(find_stories(args.source, report), held.values())

    def stories(files: list[str], on_bytes: Callable[[int], object]) -> Iterator[Story]:
        return read_stories(
            files,
            report,
            StoryLimits(args.max_story_chars, args.max_words),
            story_format=args.format,
            field=args.text_field,
            clean_markup=args.markup == "clean",
            dedupe=args.dedupe,
            on_bytes=on_bytes,
        )

    def read(on_bytes: Callable[[int], object]) -> Iterator[tuple[str, str]]:
        return divide(
            {subset: stories(files, on_bytes) for subset, files in held.items()},
            stories(paths, on_bytes),
            splitter.subset,
            lambda story: report.drop(HELD_OUT, story.place),
        )

    output = CorpusOutput(
        args.output, "story", "stories", "txt", shares, tuple(held), args.quiet, args.max_loss
    )
    settings = {"settings": {name: getattr(args, name) for name in _SETTINGS}}
    everything = [path for files in (*held.values(), paths) for path in files]
    write_corpus(output, read, report, everything, {"sources": args.source, **settings})

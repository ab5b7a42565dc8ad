"""Clean story files and split them into train.txt, valid.txt and test.txt.

Reads TinyStories shards (.json, or a .tar.gz of them), text with <|endoftext|> between
stories, one story a line, and books (.md, cut into pieces where paragraphs end); files or
folders, each recognised by itself. Writes one story a line, and report.json.

A story goes to a subset by a hash of the seed and its text: equal stories stay together,
and adding more stories later moves none. Pieces of one book chapter stay together too.
"""

import argparse
from collections.abc import Callable, Iterator

from ..data.corpus.split import Splitter
from ..data.story.formats import (
    DEFAULT_MAX_STORY_CHARS,
    DEFAULT_MAX_WORDS,
    FORMATS,
    StoryLimits,
    find_stories,
    read_stories,
)
from ..data.story.records import StoryReport
from .argument_types import positive_int
from .corpus_output import CorpusOutput, add_source_arguments, add_split_arguments, write_corpus

# What report.json says of the options.
_SETTINGS = ("valid", "test", "seed", "max_words", "max_story_chars", "dedupe", "format")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser, FORMATS)
    add_split_arguments(parser, "txt")
    parser.add_argument(
        "--max-words",
        type=positive_int,
        default=DEFAULT_MAX_WORDS,
        help="books: words of a piece at most (default: %(default)s)",
    )
    parser.add_argument(
        "--max-story-chars",
        type=positive_int,
        default=DEFAULT_MAX_STORY_CHARS,
        help="longer stories are skipped and counted (default: %(default)s)",
    )
    parser.add_argument(
        "--dedupe", action="store_true", help="keep one of several exactly equal stories"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="a story that is not UTF-8, too long or without a story field is an error, "
        "not a counted skip",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    report = StoryReport(strict=args.strict)
    splitter = Splitter(args.seed, args.valid, args.test)
    paths = find_stories(args.source, report)

    def read(on_bytes: Callable[[int], object]) -> Iterator[tuple[str, str]]:
        stories = read_stories(
            paths,
            report,
            StoryLimits(args.max_story_chars, args.max_words),
            story_format=args.format,
            dedupe=args.dedupe,
            on_bytes=on_bytes,
        )
        for story in stories:
            yield splitter.subset(story), story.text

    shares = {"valid": args.valid, "test": args.test}
    output = CorpusOutput(args.output, "story", "stories", "txt", shares, quiet=args.quiet)
    settings = {"settings": {name: getattr(args, name) for name in _SETTINGS}}
    write_corpus(output, read, report, paths, {"sources": args.source, **settings})

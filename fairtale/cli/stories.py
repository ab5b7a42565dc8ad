"""Clean story files and split them into train.txt, valid.txt and test.txt.

The sources are files or folders, whose formats are detected: TinyStories shards (.json, or a
.tar.gz of them), text with <|endoftext|> between stories, one story a line, and books (.md), which
are split into pieces at the ends of paragraphs. The output holds one story a line; report.json
counts what was skipped.

A hash of the seed and the text assigns a story to a subset. Equal stories therefore share a
subset, and stories that are added later do not move others. The pieces of a chapter of a book also
share a subset.
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

# Options whose values are written to report.json.
_SETTINGS = ("valid", "test", "seed", "max_words", "max_story_chars", "dedupe", "format")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser, FORMATS)
    add_split_arguments(parser, "txt")
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

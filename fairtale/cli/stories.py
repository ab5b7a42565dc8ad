"""Clean story files and split them into train.txt, valid.txt and test.txt.

Reads TinyStories shards (.json, or a .tar.gz of them), text with <|endoftext|> between
stories, one story a line, and books (.md, cut into pieces where paragraphs end); files or
folders, each recognised by itself. Writes one story a line, and report.json.

A story goes to a subset by a hash of the seed and its text: equal stories stay together,
and adding more stories later moves none. Pieces of one book chapter stay together too.
"""

import contextlib
import json
import os

from ..data.corpus.records import StoryReport
from ..data.corpus.split import SUBSETS, StorySplitter
from ..data.story.formats import (
    DEFAULT_MAX_STORY_CHARS,
    DEFAULT_MAX_WORDS,
    FORMATS,
    find_stories,
    read_stories,
)
from ..errors import UserError
from .argument_types import fraction, positive_int
from .files import whole_file
from .progress import progress_bar


def add_arguments(parser):
    parser.add_argument("source", nargs="+", help="file or folder; several are read in this order")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--format", choices=FORMATS, help="of every file, where recognition by itself goes wrong"
    )
    parser.add_argument(
        "--valid", type=fraction, default=0.005, help="share for valid.txt (default: %(default)s)"
    )
    parser.add_argument(
        "--test", type=fraction, default=0.005, help="share for test.txt (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the split (default: %(default)s)")
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
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args):
    report = StoryReport(strict=args.strict)
    splitter = StorySplitter(args.seed, args.valid, args.test)
    # A subset that is not wanted (share 0) is not written, and none is left from before.
    wanted = [name for name in SUBSETS if name == "train" or getattr(args, name) > 0]
    counts = dict.fromkeys(wanted, 0)
    total = sum(map(os.path.getsize, find_stories(args.source, StoryReport())))
    with contextlib.ExitStack() as stack:
        # All files take their names together at the end, the report last.
        report_file = stack.enter_context(whole_file(os.path.join(args.output, "report.json")))
        files = {
            name: stack.enter_context(whole_file(os.path.join(args.output, f"{name}.txt")))
            for name in wanted
        }
        bar = stack.enter_context(
            progress_bar(total, "B", "stories", unit_scale=True, disable=args.quiet)
        )
        stories = read_stories(
            args.source,
            report,
            story_format=args.format,
            max_story_chars=args.max_story_chars,
            max_words=args.max_words,
            dedupe=args.dedupe,
            on_bytes=bar.update,
        )
        for story in stories:
            subset = splitter.subset(story)
            files[subset].write(story.text + "\n")
            counts[subset] += 1
        _check_counts(args, report, counts)
        json.dump({**report.as_dict(), "subsets": counts, **_settings(args)}, report_file, indent=1)
        report_file.write("\n")
    for name in set(SUBSETS) - set(wanted):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(args.output, f"{name}.txt"))
    for line in report.lines():
        print(line)
    print(f"{', '.join(f'{name} {count}' for name, count in counts.items())} -> {args.output}")


def _settings(args):
    names = ("valid", "test", "seed", "max_words", "max_story_chars", "dedupe", "format")
    return {"sources": args.source, "settings": {name: getattr(args, name) for name in names}}


def _check_counts(args, report, counts):
    """An empty subset would only be noticed much later, by fairseq, in other words."""
    if not report.num_kept:
        reasons = "; ".join(f"{kind}: {count}" for kind, count in report.skipped.items())
        raise UserError(
            f"no story found in {', '.join(args.source)} ({reasons or 'the files are empty'})"
        )
    for name, count in counts.items():
        if not count:
            share = getattr(args, name, None)
            asked = f"--{name} {share} of " if share is not None else "the rest of "
            raise UserError(
                f"{asked}{report.num_kept} stories came to 0 {name} stories; "
                "raise the share, give more stories, or set the share to 0"
            )

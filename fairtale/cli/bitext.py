"""Clean and tokenise parallel corpora, and write train, valid and test, one sentence a line.

A corpus is given as PREFIX and consists of two files, PREFIX.en and PREFIX.ru, that are aligned
line by line. A WMT set in SGML is given as the PREFIX of PREFIX-src.en.sgm and PREFIX-ref.ru.sgm,
and other names are given as SOURCE,TARGET. Lines are normalised and tokenised as Moses does it
(with sacremoses).

A training pair is left out and counted if a side is empty or too long, if the lengths of its
sides differ too much, if both sides are equal, if it is a duplicate, or if it also occurs in a
validation or test set. Validation and test sets are kept complete and in their order; DIR/raw
holds their text before tokenisation.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from ..data.corpus.arrays import Bools
from ..data.corpus.report import DUPLICATE
from ..data.parallel.cleaning import (
    HELD_OUT,
    Choice,
    CleanPair,
    HeldOut,
    PairCleaner,
    PairIndex,
    choose,
)
from ..data.parallel.files import ParallelFiles, find_parallel
from ..data.parallel.text import TOKENIZERS, LanguageText, TextSettings, write_settings
from ..errors import UserError
from .argument_types import positive_int
from .corpus_output import summary, write_json
from .devices import usable_cpus
from .files import whole_file
from .progress import progress_bar
from .workers import worker_pool

DEFAULT_VALID_SIZE = 2000
# Pairs sent to a worker at once: enough to amortise the transfer, few enough to share the work.
_TASK_PAIRS = 1000

Lines = tuple[str, str]  # a line of the source and a line of the target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="PREFIX",
        help="training corpus; may be repeated",
    )
    parser.add_argument("--valid", metavar="PREFIX", help="validation set")
    parser.add_argument(
        "--valid-size",
        type=positive_int,
        metavar="N",
        help="without --valid, hold out N training pairs whose sides occur only once "
        f"(default: {DEFAULT_VALID_SIZE})",
    )
    parser.add_argument(
        "--test", action="append", default=[], metavar="PREFIX", help="test set; may be repeated"
    )
    parser.add_argument(
        "-s", "--source-lang", default="en", help="source language (default: %(default)s)"
    )
    parser.add_argument(
        "-t", "--target-lang", default="ru", help="target language (default: %(default)s)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--max-words",
        type=positive_int,
        default=150,
        help="maximum number of tokens of a side (default: %(default)s)",
    )
    parser.add_argument(
        "--max-ratio",
        type=float,
        default=3.0,
        help="maximum ratio of the lengths of the two sides, in tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=TOKENIZERS,
        default="moses",
        help="tokenizer of both languages (default: %(default)s)",
    )
    parser.add_argument(
        "--no-normalize", action="store_true", help="do not unify quotes, dashes and spaces"
    )
    parser.add_argument(
        "--escape",
        action="store_true",
        help="escape special characters as XML entities, as Moses does by default; SentencePiece "
        "needs about four pieces for an entity",
    )
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="keep repeated training pairs"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="random seed for choosing --valid-size (default: 1)"
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=usable_cpus(),
        help="number of processes (default: all CPUs)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    corpora, held = _find_files(args)
    settings = TextSettings(args.tokenizer, normalize=not args.no_normalize, escape=args.escape)
    source, target = (LanguageText(name, settings) for name in _languages(args))
    raw = os.path.join(args.output, "raw")
    os.makedirs(raw, exist_ok=True)
    for folder in (args.output, raw):
        _remove_old(folder, args)
    held_out, held_sizes = HeldOut(), {}
    for subset, files in held.items():
        held_sizes[subset] = _write_held_out(subset, files, (source, target), held_out, args)
    cleaner = PairCleaner(source, target, args.max_words, args.max_ratio)
    counts, taken = _write_training(corpora, cleaner, held_out, args)
    sizes = {"train": taken.pop("train"), **taken, **held_sizes}
    write_settings(args.output, settings)
    names = {subset: os.path.basename(name) for subset, (name, _) in _held_names(args).items()}
    with whole_file(os.path.join(raw, "names.txt")) as stream:
        stream.writelines(f"{subset}\t{name}\n" for subset, name in names.items())
    _report(args, counts, sizes, settings, names)


def _languages(args: argparse.Namespace) -> tuple[str, str]:
    return args.source_lang, args.target_lang


def _remove_old(folder: str, args: argparse.Namespace) -> None:
    """Remove the files of an earlier run, which may have had more sets."""
    languages = "|".join(map(re.escape, _languages(args)))
    for name in os.listdir(folder):
        if re.fullmatch(rf"(train|valid|test\d*)\.({languages})", name):
            os.remove(os.path.join(folder, name))


def _held_names(args: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Return the given names of the validation and test sets, and the options that gave them."""
    held = {"valid": (args.valid, "--valid")} if args.valid else {}
    for number, name in enumerate(args.test):
        held[f"test{number or ''}"] = (name, "--test")
    return held


def _find_files(
    args: argparse.Namespace,
) -> tuple[dict[str, ParallelFiles], dict[str, ParallelFiles]]:
    """Return the files of the training corpora and of the held-out sets; check the options."""
    if args.source_lang == args.target_lang:
        raise UserError(f"-s {args.source_lang} -t {args.target_lang}: give two languages")
    if args.valid and args.valid_size:
        raise UserError("--valid and --valid-size: give one of them")
    if args.max_ratio < 1:
        raise UserError(f"--max-ratio {args.max_ratio}: must be at least 1")
    pair = _languages(args)
    corpora = {name: find_parallel(name, *pair, "--source") for name in args.source}
    if len(corpora) != len(args.source):
        raise UserError("--source: the same corpus is given twice")
    held = {key: find_parallel(name, *pair, opt) for key, (name, opt) in _held_names(args).items()}
    return corpora, held


def _write_held_out(
    subset: str,
    files: ParallelFiles,
    languages: tuple[LanguageText, LanguageText],
    held_out: HeldOut,
    args: argparse.Namespace,
) -> int:
    """Write a validation or test set with all its pairs in order; return their number."""
    names = [f"{subset}.{lang}" for lang in _languages(args)]
    source, target = languages
    count = 0
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(whole_file(os.path.join(args.output, folder, name)))
            for folder in ("", "raw")
            for name in names
        ]
        for lines in files.read():
            tokens = source.tokenize(lines[0]), target.tokenize(lines[1])
            held_out.add(*tokens)
            for stream, text in zip(streams, (*tokens, *lines)):
                stream.write(text + "\n")
            count += 1
        if not count:
            raise UserError(f"{files.source} is empty; give a set that holds sentences")
    return count


# ----------------------------------------------------------------------- training pairs

_cleaner: PairCleaner | None = None  # set once in each worker process


def _start_worker(cleaner: PairCleaner) -> None:
    global _cleaner
    _cleaner = cleaner


def _clean_task(pairs: list[Lines]) -> list[CleanPair | str]:
    assert _cleaner is not None  # _start_worker has set it
    return [_cleaner(*pair) for pair in pairs]


def _tasks(pairs: Iterable[Lines]) -> Iterator[list[Lines]]:
    pairs = iter(pairs)
    while task := list(itertools.islice(pairs, _TASK_PAIRS)):
        yield task


def _write_training(
    corpora: dict[str, ParallelFiles],
    cleaner: PairCleaner,
    held_out: HeldOut,
    args: argparse.Namespace,
) -> tuple[dict[str, Counter[str]], dict[str, int]]:
    """Write train and, without --valid, valid; return counts by corpus and sizes by subset."""
    temporary = os.path.join(args.output, ".cleaned.partial")
    try:
        index, counts = _clean_corpora(corpora, cleaner, temporary, args)
        if not index:
            raise UserError(_nothing_left(args, counts))
        num_valid = 0 if args.valid else args.valid_size or DEFAULT_VALID_SIZE
        choice = choose(index, held_out, num_valid, args.seed)
        if args.keep_duplicates:
            choice.duplicate[:] = False
        _count_later_losses(counts, choice)
        if (choice.valid | choice.leaking | choice.duplicate).all():
            raise UserError(_nothing_left(args, counts))
        taken = _divide(temporary, choice.valid, choice.leaking | choice.duplicate, args)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
    return counts, taken


def _clean_corpora(
    corpora: dict[str, ParallelFiles], cleaner: PairCleaner, path: str, args: argparse.Namespace
) -> tuple[PairIndex, dict[str, Counter[str]]]:
    """Write the clean pairs of all corpora to ``path``; return their index and the counts."""
    index, counts = PairIndex(), dict[str, Counter[str]]()
    with (
        worker_pool(args.workers, _start_worker, cleaner) as pool,
        progress_bar(None, " pairs", "cleaning", disable=args.quiet) as bar,
        open(path, "w", encoding="utf-8", newline="\n") as stream,
    ):
        for name, files in corpora.items():
            counts[name] = Counter()
            for task, results in pool.map(_clean_task, _tasks(files.read())):
                for result in results:
                    counts[name]["pairs"] += 1
                    if isinstance(result, str):
                        counts[name][result] += 1
                    else:
                        index.add(result.source_tokens, result.target_tokens)
                        stream.write("\t".join(result) + "\n")
                bar.update(len(task))
    return index, counts


def _nothing_left(args: argparse.Namespace, counts: dict[str, Counter[str]]) -> str:
    lost: Counter[str] = sum(counts.values(), Counter())
    reasons = ", ".join(f"{reason} {count}" for reason, count in lost.items())
    return f"--source {' '.join(args.source)}: no pair is left to train on ({reasons})"


def _divide(cleaned: str, valid: Bools, dropped: Bools, args: argparse.Namespace) -> dict[str, int]:
    """Copy the pairs that are kept to the files of their subsets; return the sizes by subset."""
    sizes = {"train": 0, "valid": 0} if valid.any() else {"train": 0}
    with contextlib.ExitStack() as stack:
        streams = {
            subset: [
                stack.enter_context(whole_file(os.path.join(args.output, folder, f"{subset}.{x}")))
                for folder in (("", "raw") if subset == "valid" else ("",))
                for x in _languages(args)
            ]
            for subset in sizes
        }
        lines = stack.enter_context(open(cleaned, encoding="utf-8", newline="\n"))
        for line, is_valid, is_dropped in zip(lines, valid, dropped, strict=True):
            if is_dropped:
                continue
            subset = "valid" if is_valid else "train"
            for stream, text in zip(streams[subset], line.rstrip("\n").split("\t")):
                stream.write(text + "\n")
            sizes[subset] += 1
    return sizes


def _count_later_losses(counts: dict[str, Counter[str]], choice: Choice) -> None:
    """Add the leaking and duplicate pairs to the counts of each corpus."""
    start = 0
    for count in counts.values():
        end = start + count["pairs"] - sum(n for key, n in count.items() if key != "pairs")
        count[HELD_OUT] = int(choice.leaking[start:end].sum())
        count[DUPLICATE] = int(choice.duplicate[start:end].sum())
        start = end


def _report(
    args: argparse.Namespace,
    counts: dict[str, Counter[str]],
    sizes: dict[str, int],
    settings: TextSettings,
    names: dict[str, str],
) -> None:
    for name, count in counts.items():
        lost = ", ".join(f"{key} {n}" for key, n in count.items() if n and key != "pairs")
        print(f"{name}: {count['pairs']} pairs" + (f"; left out: {lost}" if lost else ""))
    print(summary(sizes, args.output))
    options = ("max_words", "max_ratio", "seed", "keep_duplicates")
    report = {
        "languages": list(_languages(args)),
        "corpora": counts,
        "sets": names,
        "pairs": sizes,
        "tokenizer": json.loads(str(settings)),
        "settings": {name: getattr(args, name) for name in options},
    }
    with whole_file(os.path.join(args.output, "report.json")) as stream:
        write_json(report, stream)

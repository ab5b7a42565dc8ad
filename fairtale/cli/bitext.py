"""Clean and tokenise parallel corpora, and write train, valid and test, one sentence a line.

A corpus is given as PREFIX and consists of two files, PREFIX.en and PREFIX.ru, that are aligned
line by line. A WMT set in SGML is given as the PREFIX of PREFIX-src.en.sgm and PREFIX-ref.ru.sgm,
other names are given as SOURCE,TARGET, and one file may hold both languages: TMX, WMT's XML, JSON
lines, CSV, parquet, or two columns separated by a tab. All may be compressed. What is not
recognised is refused; docs/translation.md has an example of each format. Lines are normalised and
tokenised as Moses does it (with sacremoses), but for languages without spaces between words.

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
from ..data.corpus.report import DUPLICATE, HELD_OUT
from ..data.parallel.cleaning import (
    SAME,
    Choice,
    CleanPair,
    HeldOut,
    PairCleaner,
    PairIndex,
    choose,
)
from ..data.parallel.files import ParallelFiles, find_parallel
from ..data.parallel.records import PairReport
from ..data.parallel.text import (
    LanguageText,
    TextSettings,
    default_tokenizer,
    write_settings,
)
from ..errors import UserError
from .bitext_options import DEFAULT_VALID_SIZE, add_arguments
from .corpus_output import summary, write_json
from .files import whole_file
from .progress import progress_bar
from .workers import worker_pool

# Pairs sent to a worker at once: enough to amortise the transfer, few enough to share the work.
_TASK_PAIRS = 1000

__all__ = ["add_arguments", "run"]

Lines = tuple[str, str]  # a line of the source and a line of the target


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    corpora, held = _find_files(args)
    tokenizer = args.tokenizer or default_tokenizer(_languages(args))
    settings = TextSettings(tokenizer, normalize=not args.no_normalize, escape=args.escape)
    source, target = (LanguageText(name, settings) for name in _languages(args))
    raw = os.path.join(args.output, "raw")
    os.makedirs(raw, exist_ok=True)
    for folder in (args.output, raw):
        _remove_old(folder, args)
    held_out, held_sizes = HeldOut(), {}
    for subset, files in held.items():
        held_sizes[subset] = _write_held_out(subset, files, (source, target), held_out, args)
    cleaner = PairCleaner(source, target, args.max_words, args.max_ratio, args.markup)
    losses = dict[str, Counter[str]]()
    counts, taken = _write_training(corpora, cleaner, held_out, losses, args)
    sizes = {"train": taken.pop("train"), **taken, **held_sizes}
    write_settings(args.output, settings)
    names = {subset: os.path.basename(name) for subset, (name, _) in _held_names(args).items()}
    with whole_file(os.path.join(raw, "names.txt")) as stream:
        stream.writelines(f"{subset}\t{name}\n" for subset, name in names.items())
    _report(args, counts, losses, sizes, settings, names)


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
    how = (args.format, args.fields)
    corpora = {name: find_parallel(name, *pair, "--source", *how) for name in args.source}
    if len(corpora) != len(args.source):
        raise UserError("--source: the same corpus is given twice")
    held = {
        key: find_parallel(name, *pair, option, *how)
        for key, (name, option) in _held_names(args).items()
    }
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
    losses: dict[str, Counter[str]],
    args: argparse.Namespace,
) -> tuple[dict[str, Counter[str]], dict[str, int]]:
    """Write train and, without --valid, valid; return counts by corpus and sizes by subset.

    ``losses`` gets the bytes that each corpus has, and those that each reason has cost.
    """
    temporary = os.path.join(args.output, ".cleaned.partial")
    try:
        index, counts = _clean_corpora(corpora, cleaner, temporary, losses, args)
        if not index:
            raise UserError(_nothing_left(args, counts))
        for name, count in counts.items():
            _check_losses(name, count, losses[name], args.max_loss)
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
    corpora: dict[str, ParallelFiles],
    cleaner: PairCleaner,
    path: str,
    losses: dict[str, Counter[str]],
    args: argparse.Namespace,
) -> tuple[PairIndex, dict[str, Counter[str]]]:
    """Write the clean pairs of all corpora to ``path``; return their index and the counts."""
    index, counts = PairIndex(), dict[str, Counter[str]]()
    with (
        worker_pool(args.workers, _start_worker, cleaner) as pool,
        progress_bar(None, " pairs", "cleaning", disable=args.quiet) as bar,
        open(path, "w", encoding="utf-8", newline="\n") as stream,
    ):
        for name, files in corpora.items():
            counts[name], losses[name] = Counter(), Counter()
            damage = PairReport()
            for task, results in pool.map(_clean_task, _tasks(files.read(damage))):
                for pair, result in zip(task, results, strict=True):
                    size = sum(len(line.encode("utf-8", "replace")) + 1 for line in pair)
                    counts[name]["pairs"] += 1
                    losses[name]["bytes"] += size
                    if isinstance(result, str):
                        counts[name][result] += 1
                        losses[name][result] += size
                    else:
                        index.add(result.source_tokens, result.target_tokens)
                        stream.write("\t".join(result) + "\n")
                bar.update(len(task))
            for kind, count in damage.damaged.items():
                counts[name]["pairs"] += count
                counts[name][kind] += count
                losses[name][kind] += damage.lost_bytes[kind]
    return index, counts


def _check_losses(name: str, count: Counter[str], lost: Counter[str], max_loss: float) -> None:
    """Refuse a corpus that the filters take apart, as when lines or columns do not match.

    Raises:
        UserError: more than ``max_loss`` of its pairs or bytes are lost.
    """
    harmless = ("pairs", SAME, HELD_OUT, DUPLICATE)
    reasons = {kind: n for kind, n in count.items() if kind not in harmless}
    share = sum(reasons.values()) / max(1, count["pairs"])
    share = max(share, sum(lost[kind] for kind in reasons) / max(1, lost["bytes"]))
    if share > max_loss:
        shown = ", ".join(f"{kind} {n}" for kind, n in reasons.items())
        raise UserError(
            f"--source {name}: {100 * share:.0f} % of {count['pairs']} pairs are left out "
            f"({shown}): correct the files, the languages or the limits, or allow it with "
            f"--max-loss (now {max_loss:g})"
        )


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
    losses: dict[str, Counter[str]],
    sizes: dict[str, int],
    settings: TextSettings,
    names: dict[str, str],
) -> None:
    for name, count in counts.items():
        lost = ", ".join(f"{key} {n}" for key, n in count.items() if n and key != "pairs")
        total = losses[name]["bytes"]
        total = losses[name]["bytes"]
        size = sum(losses[name].values()) - total
        lost += f" ({size:,} of {total:,} bytes)" if size else ""
        print(f"{name}: {count['pairs']} pairs" + (f"; left out: {lost}" if lost else ""))
    print(summary(sizes, args.output))
    options = ("max_words", "max_ratio", "seed", "keep_duplicates", "markup", "format", "fields")
    report = {
        "languages": list(_languages(args)),
        "corpora": counts,
        "bytes": losses,
        "sets": names,
        "pairs": sizes,
        "tokenizer": json.loads(str(settings)),
        "settings": {name: getattr(args, name) for name in options},
    }
    with whole_file(os.path.join(args.output, "report.json")) as stream:
        write_json(report, stream)

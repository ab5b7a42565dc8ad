"""Parallel corpora to clean, tokenised pairs: train, valid and test, one sentence a line.

A corpus is a PREFIX of two files, PREFIX.en and PREFIX.ru, whose lines belong together; a
WMT set in SGML is the PREFIX of PREFIX-src.en.sgm and PREFIX-ref.ru.sgm; other names are
given as SOURCE,TARGET. Lines are normalised and tokenised as Moses does it (sacremoses).

Training pairs are left out, and counted, where a side is empty or too long, the lengths do
not fit, both sides are the same text, the pair occurred before, or valid or test have it.
Validation and test sets stay whole and in their order. DIR/raw holds them as they were.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import os
import re
import signal

from ..data.parallel.cleaning import DUPLICATE, HELD_OUT, HeldOut, PairCleaner, PairIndex, choose
from ..data.parallel.files import find_parallel
from ..data.parallel.text import TOKENIZERS, LanguageText, TextSettings, write_settings
from ..errors import UserError
from .argument_types import positive_int
from .devices import usable_cpus
from .files import whole_file
from .progress import progress_bar

DEFAULT_VALID_SIZE = 2000
_TASK_PAIRS = 1000  # long enough to make the transport cheap, short enough to share
_TASKS_PER_WORKER = 4


def add_arguments(parser):
    parser.add_argument(
        "--source", action="append", required=True, metavar="PREFIX", help="training corpus; repeat"
    )
    parser.add_argument("--valid", metavar="PREFIX", help="validation set")
    parser.add_argument(
        "--valid-size",
        type=positive_int,
        metavar="N",
        help="without --valid: hold out N training pairs whose sides occur nowhere else "
        f"(default: {DEFAULT_VALID_SIZE})",
    )
    parser.add_argument(
        "--test", action="append", default=[], metavar="PREFIX", help="test set; repeat"
    )
    parser.add_argument("-s", "--source-lang", default="en", help="(default: %(default)s)")
    parser.add_argument("-t", "--target-lang", default="ru", help="(default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--max-words",
        type=positive_int,
        default=150,
        help="tokens of a side at most (default: %(default)s)",
    )
    parser.add_argument(
        "--max-ratio",
        type=float,
        default=3.0,
        help="tokens of the longer side for one of the shorter at most (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer", choices=TOKENIZERS, default="moses", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--no-normalize", action="store_true", help="keep quotes and dashes as they are"
    )
    parser.add_argument(
        "--escape",
        action="store_true",
        help="write XML entities as Moses does by default; SentencePiece needs four pieces for one",
    )
    parser.add_argument("--keep-duplicates", action="store_true", help="of training pairs")
    parser.add_argument("--seed", type=int, default=1, help="of --valid-size (default: 1)")
    parser.add_argument(
        "--workers", type=positive_int, default=usable_cpus(), help="processes (default: all CPUs)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args):
    corpora, held = _find_files(args)
    settings = TextSettings(args.tokenizer, normalize=not args.no_normalize, escape=args.escape)
    languages = [LanguageText(name, settings) for name in (args.source_lang, args.target_lang)]
    raw = os.path.join(args.output, "raw")
    os.makedirs(raw, exist_ok=True)
    for folder in (args.output, raw):
        _remove_old(folder, args)
    held_out, sizes = HeldOut(), {}
    for subset, files in held.items():
        sizes[subset] = _write_held_out(subset, files, languages, held_out, args)
    cleaner = PairCleaner(*languages, args.max_words, args.max_ratio)
    counts, taken = _write_training(corpora, cleaner, held_out, args)
    sizes = {"train": taken.pop("train"), **taken, **sizes}
    write_settings(args.output, settings)
    names = {subset: os.path.basename(name) for subset, (name, _) in _held_names(args).items()}
    with whole_file(os.path.join(raw, "names.txt")) as stream:
        stream.writelines(f"{subset}\t{name}\n" for subset, name in names.items())
    _report(args, counts, sizes, settings, names)


def _remove_old(folder, args):
    """A run with fewer sets shall leave none of the one before."""
    languages = f"{re.escape(args.source_lang)}|{re.escape(args.target_lang)}"
    for name in os.listdir(folder):
        if re.fullmatch(rf"(train|valid|test\d*)\.({languages})", name):
            os.remove(os.path.join(folder, name))


def _held_names(args):
    held = {"valid": (args.valid, "--valid")} if args.valid else {}
    for number, name in enumerate(args.test):
        held[f"test{number or ''}"] = (name, "--test")
    return held


def _find_files(args):
    """Everything is looked for before anything is read."""
    if args.source_lang == args.target_lang:
        raise UserError(f"-s {args.source_lang} -t {args.target_lang}: two languages are needed")
    if args.valid and args.valid_size:
        raise UserError("--valid and --valid-size: give one of them")
    if args.max_ratio < 1:
        raise UserError(f"--max-ratio {args.max_ratio}: at least 1")
    pair = (args.source_lang, args.target_lang)
    corpora = {name: find_parallel(name, *pair, "--source") for name in args.source}
    if len(corpora) != len(args.source):
        raise UserError("--source: the same corpus is given twice")
    held = {key: find_parallel(name, *pair, opt) for key, (name, opt) in _held_names(args).items()}
    return corpora, held


def _write_held_out(subset, files, languages, held_out, args):
    """Writes a set, whole and in its order; returns its number of pairs."""
    names = [f"{subset}.{lang}" for lang in (args.source_lang, args.target_lang)]
    count = 0
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(whole_file(os.path.join(args.output, folder, name)))
            for folder in ("", "raw")
            for name in names
        ]
        for lines in files.read():
            tokens = [language.tokenize(line) for language, line in zip(languages, lines)]
            held_out.add(*tokens)
            for stream, text in zip(streams, (*tokens, *lines)):
                stream.write(text + "\n")
            count += 1
        if not count:
            raise UserError(f"{files.source}: empty; give a set with sentences")
    return count


# ----------------------------------------------------------------------- training pairs

_cleaner = None  # set once in each process


def _start_worker(cleaner):
    global _cleaner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    _cleaner = cleaner


def _clean_task(pairs):
    return [_cleaner(*pair) for pair in pairs]


def _cleaned(pairs, cleaner, pool, workers):
    """The results of ``cleaner`` in order, from as many pairs ahead as keep the workers busy."""
    pairs = iter(pairs)
    if pool is None:
        yield from itertools.starmap(cleaner, pairs)
        return
    under_way = collections.deque()
    while task := list(itertools.islice(pairs, _TASK_PAIRS)):
        under_way.append(pool.submit(_clean_task, task))
        if len(under_way) >= _TASKS_PER_WORKER * workers:
            yield from under_way.popleft().result()
    while under_way:
        yield from under_way.popleft().result()


def _write_training(corpora, cleaner, held_out, args):
    """Writes train and, with --valid-size, valid; returns counts by corpus, and sizes."""
    index, counts = PairIndex(), {}
    temporary = os.path.join(args.output, ".cleaned.partial")
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: os.path.exists(temporary) and os.remove(temporary))
        pool = None
        if args.workers > 1:
            pool = stack.enter_context(
                concurrent.futures.ProcessPoolExecutor(
                    args.workers, initializer=_start_worker, initargs=(cleaner,)
                )
            )
            pool.submit(int).result()  # forking is safe only before the bar's thread exists
        bar = stack.enter_context(progress_bar(None, " pairs", "cleaning", disable=args.quiet))
        with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
            for name, files in corpora.items():
                counts[name] = collections.Counter()
                for result in _cleaned(files.read(), cleaner, pool, args.workers):
                    counts[name]["pairs"] += 1
                    if isinstance(result, str):
                        counts[name][result] += 1
                    else:
                        index.add(*result[:2])
                        stream.write("\t".join(result) + "\n")
                    bar.update(1)
        if not index:
            raise UserError(_nothing_left(args, counts))
        num_valid = 0 if args.valid else args.valid_size or DEFAULT_VALID_SIZE
        valid, leaking, duplicate = choose(index, held_out, num_valid, args.seed)
        if args.keep_duplicates:
            duplicate[:] = False
        if (valid | leaking | duplicate).all():
            _count_later_losses(counts, leaking, duplicate)
            raise UserError(_nothing_left(args, counts))
        taken = _divide(temporary, valid, leaking | duplicate, args)
    _count_later_losses(counts, leaking, duplicate)
    return counts, taken


def _nothing_left(args, counts):
    lost = sum(counts.values(), collections.Counter())
    reasons = ", ".join(f"{reason} {count}" for reason, count in lost.items())
    return f"--source {' '.join(args.source)}: no pair is left to train on ({reasons})"


def _divide(cleaned, valid, dropped, args):
    """Copies the pairs that are kept to their files; returns their numbers."""
    pair = (args.source_lang, args.target_lang)
    sizes = {"train": 0, "valid": 0} if valid.any() else {"train": 0}
    with contextlib.ExitStack() as stack:
        streams = {
            subset: [
                stack.enter_context(whole_file(os.path.join(args.output, folder, f"{subset}.{x}")))
                for folder in (("", "raw") if subset == "valid" else ("",))
                for x in pair
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


def _count_later_losses(counts, leaking, duplicate):
    """Adds to each corpus what was lost after it had been cleaned."""
    start = 0
    for count in counts.values():
        end = start + count["pairs"] - sum(n for key, n in count.items() if key != "pairs")
        count[HELD_OUT] = int(leaking[start:end].sum())
        count[DUPLICATE] = int(duplicate[start:end].sum())
        start = end


def _report(args, counts, sizes, settings, names):
    for name, count in counts.items():
        lost = ", ".join(f"{key} {n}" for key, n in count.items() if n and key != "pairs")
        print(f"{name}: {count['pairs']} pairs" + (f"; left out: {lost}" if lost else ""))
    print(f"{', '.join(f'{name} {size}' for name, size in sizes.items())} -> {args.output}")
    options = ("max_words", "max_ratio", "seed", "keep_duplicates")
    report = {
        "languages": [args.source_lang, args.target_lang],
        "corpora": counts,
        "sets": names,
        "pairs": sizes,
        "tokenizer": json.loads(str(settings)),
        "settings": {name: getattr(args, name) for name in options},
    }
    with whole_file(os.path.join(args.output, "report.json")) as stream:
        json.dump(report, stream, indent=1)
        stream.write("\n")

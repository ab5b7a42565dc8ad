"""Options and steps shared by ``fairtale spm encode`` and ``fairtale bpe encode``.

Each text of the input files becomes one line of output, in the same order, or the other way round.
The work is distributed over several processes.
"""

import argparse
import collections
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ..data.corpus.json_lines import FIELD, decode_record, is_json_lines
from ..data.corpus.report import NUM_PLACES_NAMED
from ..data.corpus.text_lines import decode_line, open_binary
from ..errors import UserError
from .argument_types import positive_int
from .devices import usable_cpus
from .files import whole_file
from .progress import progress_bar
from .spm_dialog import Encoded, LeftOut
from .workers import WorkerPool, worker_pool

# Text sent to a worker at once: enough to amortise the transfer, little enough to share the work.
_TASK_BYTES = 1 << 19
_REMEDY = "and a line of text cannot contain one; give --json-lines or --join-lines (`bpe encode`)"

Converter = Callable[[list[str]], Encoded]


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both verbs."""
    parser.add_argument(
        "--output", metavar="FILE", help="output file of a single text (default: standard output)"
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="folder for the outputs, which keep the texts' names"
    )
    parser.add_argument("--decode", action="store_true", help="decode pieces to text")
    dialog = parser.add_argument_group("dialogs")
    dialog.add_argument(
        "--dialog", action="store_true", help="lines are turns separated by tabs, response last"
    )
    dialog.add_argument(
        "--max-unknown",
        type=int,
        default=3,
        metavar="N",
        help="leave out a dialog if one of its turns has more than N unknown pieces "
        "(default: %(default)s)",
    )
    dialog.add_argument(
        "--kept-dir",
        metavar="DIR",
        help="folder for the text of the dialogs that were not left out, in files with the texts' "
        "names",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=usable_cpus(),
        metavar="N",
        help="number of processes (default: all CPUs)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar and no summary")


def convert_files(
    args: argparse.Namespace,
    pairs: list[tuple[str, str | None]],
    make: Callable[[], Converter],
    as_json: bool = False,
) -> None:
    """Convert all files, with a progress bar and a summary for each.

    Args:
        args: the options of :func:`add_shared_arguments`.
        pairs: the result of :func:`source_target_pairs`.
        make: makes the converter of lines in each worker process, to which it is sent.
        as_json: write each result as a line of JSON.

    Raises:
        UserError: a line is damaged, or its result contains a line break; no line is left; or lines
            were lost.
    """
    total = sum(os.path.getsize(source) for source, _ in pairs if source != "-")
    num_workers = args.workers if total > _TASK_BYTES else 1
    with (
        worker_pool(num_workers, _start_worker, make) as pool,
        progress_bar(
            total, "B", _verb(args), unit_scale=True, disable=args.quiet or not total
        ) as bar,
    ):
        for source, target in pairs:
            counts, lost = _convert_file(source, target, pool, args, as_json, bar.update)
            if not args.quiet:
                print(_summary(source, target, counts), *lost, sep="\n", file=sys.stderr)


def _verb(args: argparse.Namespace) -> str:
    return "decoding" if args.decode else "encoding"


def source_target_pairs(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """Return ``[(source, target)]``; a target of None means standard output.

    JSON lines become text lines, so ``train.jsonl`` is written to ``train.txt``.
    """
    if args.dialog and args.decode:
        raise UserError("--dialog and --decode: give one of them")
    if args.dialog and any(map(is_json_lines, args.text)):
        raise UserError("--dialog: dialogs are lines of turns, not JSON lines (.jsonl)")
    if args.kept_dir:
        _check_kept_dir(args)
    pairs: list[tuple[str, str | None]]
    if args.output and args.output_dir:
        raise UserError("--output and --output-dir: give one of them")
    if args.output_dir:
        if "-" in args.text:
            raise UserError("--output-dir: not possible for standard input (-); give --output")
        names = [_output_name(args, path) for path in args.text]
        if len(set(names)) != len(names):
            raise UserError(f"--output-dir: two texts have the same name among {', '.join(names)}")
        pairs = [
            (path, os.path.join(args.output_dir, name))
            for path, name in zip(args.text, names, strict=True)
        ]
    elif len(args.text) > 1:
        raise UserError(f"{len(args.text)} texts: give --output-dir for more than one")
    else:
        pairs = [(args.text[0], args.output)]
    for source, target in pairs:
        if (
            target
            and os.path.exists(target)
            and os.path.realpath(source) == os.path.realpath(target)
        ):
            raise UserError(f"{source}: would be replaced by its own output; give another name")
    return pairs


def _output_name(args: argparse.Namespace, path: str) -> str:
    name = os.path.basename(path)
    if getattr(args, "json_lines", False):
        return os.path.splitext(name)[0] + ".jsonl"
    return name.removesuffix(".jsonl") + ".txt" if is_json_lines(name) else name


def _check_kept_dir(args: argparse.Namespace) -> None:
    if not (args.dialog and args.output_dir):
        raise UserError("--kept-dir needs --dialog and --output-dir")
    taken = {os.path.realpath(os.path.dirname(path) or ".") for path in args.text}
    if os.path.realpath(args.kept_dir) in taken | {os.path.realpath(args.output_dir)}:
        raise UserError(
            f"--kept-dir {args.kept_dir}: holds the texts or the outputs; give another folder"
        )


# ------------------------------------------------------------------------------ workers

_convert: Converter | None = None  # set once in each worker process


def _start_worker(make: Callable[[], Converter]) -> None:
    global _convert
    _convert = make()


def _convert_task(task: tuple[list[str], int]) -> Encoded:
    assert _convert is not None  # _start_worker has set it
    return _convert(task[0])


# ------------------------------------------------------------------------------- parent


def _tasks(source: str) -> Iterator[tuple[list[str], int]]:
    """Yield lists of texts of about ``_TASK_BYTES`` each, with their size in bytes."""
    decode = decode_record if is_json_lines(source) else decode_line
    stream = open_binary(source)
    try:
        lines, size = list[str](), 0
        for number, line in enumerate(stream, start=1):
            lines.append(decode(line, source, number))
            size += len(line)
            if size >= _TASK_BYTES:
                yield lines, size
                lines, size = [], 0
        if lines:
            yield lines, size
    finally:
        if source != "-":
            stream.close()


def _convert_file(
    source: str,
    target: str | None,
    pool: WorkerPool,
    args: argparse.Namespace,
    as_json: bool,
    on_bytes: Callable[[int], object],
) -> tuple[collections.Counter[str], list[str]]:
    """Convert a file.

    Returns:
        the numbers of lines, empty lines, pieces and unknown pieces; and one text for each reason
        why lines were left out.

    Raises:
        UserError: as in :func:`convert_files`.
    """
    counts: collections.Counter[str] = collections.Counter()
    left_out: collections.Counter[str] = collections.Counter()
    places: dict[str, list[str]] = {}
    output = whole_file(target) if target else contextlib.nullcontext(sys.stdout)
    kept: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if args.kept_dir:
        kept = whole_file(os.path.join(args.kept_dir, os.path.basename(source)))
    with output as stream, kept as kept_stream:
        for (lines, size), encoded in pool.map(_convert_task, _tasks(source)):
            first = counts["in"] + 1
            counts["in"] += len(lines)
            counts["out"] += len(encoded.texts)
            counts["empty"] += encoded.texts.count("")
            counts["pieces"] += encoded.num_pieces
            counts["unknown"] += encoded.num_unknown
            for number, (line, text) in enumerate(zip(lines, encoded.texts, strict=False), first):
                if isinstance(text, LeftOut):
                    left_out[text.reason] += 1
                    if left_out[text.reason] <= NUM_PLACES_NAMED:
                        places.setdefault(text.reason, []).append(str(number))
                    continue
                if kept_stream:
                    kept_stream.write(line + "\n")
                if as_json:
                    text = json.dumps({FIELD: text}, ensure_ascii=False)
                elif "\n" in text:
                    raise UserError(f"{source}:{number}: its text has a line break, {_REMEDY}")
                stream.write(text + "\n")
            on_bytes(size)
        if counts["in"] != counts["out"]:
            raise UserError(
                f"{source}: {counts['in']} lines of input, but {counts['out']} of output; nothing "
                "was written"
            )
        lost = [
            f"{source}: left out, {reason}: {count} (first: line {', '.join(places[reason])})"
            for reason, count in left_out.items()
        ]
        if counts["in"] and left_out.total() == counts["in"]:
            raise UserError(f"{source}: all dialogs were left out; {'; '.join(lost)}")
    return counts, lost


def _summary(source: str, target: str | None, counts: collections.Counter[str]) -> str:
    notes = [f"{counts['in']} lines", f"{counts['pieces']} pieces"]
    if counts["empty"]:
        notes.append(f"{counts['empty']} empty lines")
    if counts["unknown"]:
        notes.append(f"{counts['unknown']} unknown")
    return f"{source} -> {target or 'standard output'}: {', '.join(notes)}"

"""Cut text into SentencePiece pieces, or with --decode put pieces back together.

One line in, one line out, in the same order; the work is spread over processes. The
number of lines is checked before the result takes its name.
"""

import collections
import concurrent.futures
import contextlib
import os
import signal
import sys

from ..data.text_lines import decode_line, open_binary
from ..errors import UserError
from .support import positive_int, progress_bar, usable_cpus, whole_file

# A task for a worker: long enough to make the transport cheap, short enough to share.
_TASK_BYTES = 1 << 19
# Tasks under way per worker; more would only fill memory when the reader is ahead.
_TASKS_PER_WORKER = 4


def add_arguments(parser):
    parser.add_argument("text", nargs="+", help="UTF-8 files; - is standard input")
    parser.add_argument("--model", required=True, help="a .model file")
    parser.add_argument("--output", metavar="FILE", help="for one text (default: standard output)")
    parser.add_argument(
        "--output-dir", metavar="DIR", help="for several: each is written there under its own name"
    )
    parser.add_argument("--decode", action="store_true", help="pieces in, text out")
    parser.add_argument(
        "--workers", type=positive_int, default=usable_cpus(), help="processes (default: all CPUs)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def run(args):
    pairs = _pairs(args)
    _load(args.model)  # a bad model is better met here than in every worker
    total = sum(os.path.getsize(source) for source, _ in pairs if source != "-")
    with contextlib.ExitStack() as stack:
        pool = None
        if args.workers > 1 and total > _TASK_BYTES:
            pool = stack.enter_context(_worker_pool(args))
        else:
            _start_worker(args.model, args.decode, ignore_interrupt=False)
        bar = stack.enter_context(
            progress_bar(total, "B", _verb(args), unit_scale=True, disable=args.quiet or not total)
        )
        for source, target in pairs:
            counts = _convert_file(source, target, pool, args, bar)
            if not args.quiet:
                print(_summary(source, target, counts, args), file=sys.stderr)


@contextlib.contextmanager
def _worker_pool(args):
    # An executor, for a multiprocessing.Pool waits for ever when a worker is killed.
    pool = concurrent.futures.ProcessPoolExecutor(
        args.workers, initializer=_start_worker, initargs=(args.model, args.decode)
    )
    try:
        # Start them now: forking is safe only before the progress bar's thread exists.
        pool.submit(int).result()
        yield pool
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            f"a worker process died; memory may be short: try fewer than --workers {args.workers}"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _verb(args):
    return "decoding" if args.decode else "encoding"


def _pairs(args):
    """``[(source, target)]``; target None is standard output."""
    if args.output and args.output_dir:
        raise UserError("--output and --output-dir: give one of them")
    if args.output_dir:
        if "-" in args.text:
            raise UserError("--output-dir needs names, and standard input (-) has none")
        names = [os.path.basename(path) for path in args.text]
        if len(set(names)) != len(names):
            raise UserError(f"--output-dir: two texts have the same name among {', '.join(names)}")
        pairs = [
            (path, os.path.join(args.output_dir, name))
            for path, name in zip(args.text, names, strict=True)
        ]
    elif len(args.text) > 1:
        raise UserError(f"{len(args.text)} texts: say --output-dir for more than one")
    else:
        pairs = [(args.text[0], args.output)]
    for source, target in pairs:
        if (
            target
            and os.path.exists(target)
            and os.path.realpath(source) == os.path.realpath(target)
        ):
            raise UserError(f"{source}: would be overwritten by its own result; choose another")
    return pairs


def _load(path):
    """Raises UserError where ``path`` is no SentencePiece model."""
    import sentencepiece

    if not os.path.isfile(path):
        raise UserError(f"--model {path}: no such file; `fairtale spm train` makes one")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (RuntimeError, OSError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"--model {path}: not a SentencePiece model ({message})") from None


# ------------------------------------------------------------------------------ workers

_convert = None  # set once in each process


def _start_worker(model, decode, ignore_interrupt=True):
    global _convert
    if ignore_interrupt:
        # Ctrl-C reaches the whole group; only the parent answers it, by ending the pool.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    processor = _load(model)
    _convert = _Decoder(processor) if decode else _Encoder(processor)


class _Encoder:
    """Lines of text to lines of pieces."""

    def __init__(self, processor):
        self._processor = processor
        self._pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        self._unknown = processor.unk_id()

    def __call__(self, lines):
        """``(encoded lines, pieces, unknown pieces)``."""
        # By number and not as strings: SentencePiece spells an unknown piece with the
        # letters of the text, so a text could write fairseq's `</s>`.
        encoded = self._processor.encode(lines)
        num_unknown = sum(ids.count(self._unknown) for ids in encoded)
        texts = [" ".join([self._pieces[i] for i in ids]) for ids in encoded]
        return texts, sum(map(len, encoded)), num_unknown


class _Decoder:
    """Lines of pieces to lines of text; what is no piece of the model stays as it is."""

    def __init__(self, processor):
        self._processor = processor

    def __call__(self, lines):
        split = [line.split() for line in lines]
        texts = [self._processor.decode(pieces) if pieces else "" for pieces in split]
        # One line must stay one line, whatever bytes the pieces spell.
        texts = [" ".join(text.splitlines()) if text else "" for text in texts]
        return texts, sum(map(len, split)), 0


def _convert_task(lines):
    return len(lines), *_convert(lines)


# ------------------------------------------------------------------------------- parent


def _tasks(source):
    """Lists of decoded lines, each about ``_TASK_BYTES``, with their bytes."""
    stream = open_binary(source)
    try:
        lines, size = [], 0
        for number, line in enumerate(stream, start=1):
            lines.append(decode_line(line, source, number))
            size += len(line)
            if size >= _TASK_BYTES:
                yield lines, size
                lines, size = [], 0
        if lines:
            yield lines, size
    finally:
        if source != "-":
            stream.close()


def _results(source, pool, num_workers):
    """What the workers make of each task, in order, and the task's bytes."""
    if pool is None:
        for lines, size in _tasks(source):
            yield _convert_task(lines), size
        return
    # Executor.map would read the whole file ahead; tasks are handed out as results come in.
    under_way = collections.deque()
    for lines, size in _tasks(source):
        under_way.append((pool.submit(_convert_task, lines), size))
        if len(under_way) >= _TASKS_PER_WORKER * num_workers:
            future, done = under_way.popleft()
            yield future.result(), done
    while under_way:
        future, done = under_way.popleft()
        yield future.result(), done


def _convert_file(source, target, pool, args, bar):
    """Writes ``target``; returns counts of lines, empty lines, pieces, unknown pieces."""
    counts = collections.Counter()
    output = whole_file(target) if target else contextlib.nullcontext(sys.stdout)
    with output as stream:
        for (num_lines, texts, num_pieces, num_unknown), size in _results(
            source, pool, args.workers
        ):
            counts["in"] += num_lines
            counts["out"] += len(texts)
            counts["empty"] += texts.count("")
            counts["pieces"] += num_pieces
            counts["unknown"] += num_unknown
            for text in texts:
                if "\n" in text:
                    raise UserError(f"{source}: a piece of {args.model} holds a line break")
                stream.write(text + "\n")
            bar.update(size)
        if counts["in"] != counts["out"]:
            raise UserError(
                f"{source}: {counts['in']} lines in, {counts['out']} out; nothing was written"
            )
    return counts


def _summary(source, target, counts, args):
    notes = [f"{counts['in']} lines", f"{counts['pieces']} pieces"]
    if counts["empty"]:
        notes.append(f"{counts['empty']} empty lines")
    if counts["unknown"]:
        notes.append(f"{counts['unknown']} unknown")
    return f"{source} -> {target or 'standard output'}: {', '.join(notes)}"

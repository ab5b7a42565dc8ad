"""Train a SentencePiece model on text, one sentence or story a line.

Writes PREFIX.model, PREFIX.vocab, and for fairseq-preprocess --srcdict a dict.txt of all
pieces but <s>, <pad>, </s>, <unk>, which fairseq adds itself: so fairseq's dictionary has
exactly --vocab-size entries. Counts in dict.txt are those in the training lines.

By default unknown letters fall back to their bytes, so nothing is ever <unk>, and marks
such as </s> or <pad> in a text are taken apart like any other letters.

With --dialog the texts are dialogs, as `fairtale dialogs` writes them; the dictionary, but
not the SentencePiece model, then holds the marks <CTX> and <SEP> too.
"""

import argparse
import io
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..data.corpus.text_lines import read_text_lines
from ..data.dialog.line_format import MARKS
from ..errors import UserError
from .argument_types import positive_int
from .devices import usable_cpus
from .files import whole_file
from .progress import progress_bar
from .spm_dialog import add_marks, read_sides

logger = logging.getLogger(__name__)

# fairseq's Dictionary begins with these; SentencePiece knows three of them by itself.
FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_COUNT_LINES_AT_A_TIME = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("text", nargs="+", help="UTF-8 files, one sentence or story a line")
    parser.add_argument("--model", required=True, metavar="PREFIX", help="PREFIX.model is written")
    parser.add_argument(
        "--dict", metavar="FILE", help="fairseq dictionary (default: dict.txt beside the model)"
    )
    parser.add_argument(
        "--vocab-size",
        type=positive_int,
        default=5120,
        help="entries, special and byte pieces included (default: %(default)s)",
    )
    parser.add_argument(
        "--type",
        choices=("bpe", "unigram", "char", "word"),
        default="bpe",
        help="kind of model (default: bpe)",
    )
    parser.add_argument(
        "--character-coverage",
        type=float,
        default=0.99995,
        help="share of the letters in the text that get a piece of their own; the rest is spelled "
        "in bytes (0.9995 for Chinese, Japanese, Korean; 1 for small alphabets) "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--no-byte-fallback",
        action="store_true",
        help="rare letters become <unk> instead of bytes (saves 256 vocabulary entries)",
    )
    parser.add_argument(
        "--normalization",
        default="nmt_nfkc",
        choices=("nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"),
        help="normalization of Unicode (default: %(default)s)",
    )
    parser.add_argument(
        "--symbols",
        nargs="*",
        default=[],
        metavar="S",
        help="whole vocabulary entries that only programs write, e.g. '<SEP>' '<CTX>'; "
        "the same letters in a text stay letters",
    )
    parser.add_argument(
        "--dialog",
        action="store_true",
        help="lines are turns separated by tabs: learn from their queries and responses, and "
        f"count {' and '.join(MARKS)} among the entries of the dictionary",
    )
    parser.add_argument(
        "--max-lines",
        type=positive_int,
        default=1_000_000,
        help="train on at most so many lines, evenly spread (default: %(default)s)",
    )
    parser.add_argument(
        "--max-sentence-length",
        type=positive_int,
        default=65536,
        help="bytes; longer lines are cut between words, longer words are skipped and counted "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=positive_int, default=usable_cpus(), help="threads (default: all CPUs)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    import sentencepiece

    _check(args)
    read = read_sides if args.dialog else read_text_lines
    sentences = TrainingLines(args.text, args.max_lines, args.max_sentence_length, read)
    if not sentences.num_lines:
        raise UserError(f"{', '.join(args.text)}: no text to train on")
    model = _train(sentencepiece, sentences, args)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    counts = _count_pieces(processor, sentences, args)
    write_model(processor, model, counts, args.model, dictionary_path(args), args.dialog)
    used = "all" if sentences.step == 1 else f"every {sentences.step:.4g}th"
    print(
        f"{args.type} of {processor.get_piece_size()} pieces from {sentences.num_used} lines "
        f"({used}) of {sentences.num_lines}; {sum(counts.values())} pieces in them "
        f"-> {args.model}.model, {args.model}.vocab, {dictionary_path(args)}"
    )
    if sentences.num_long_words:
        print(f"skipped words over {args.max_sentence_length} bytes: {sentences.num_long_words}")


def dictionary_path(args: argparse.Namespace) -> str:
    """Return where the dictionary is written."""
    return args.dict or os.path.join(os.path.dirname(args.model), "dict.txt")


def _check(args: argparse.Namespace) -> None:
    if not 0.9 <= args.character_coverage <= 1.0:
        raise UserError(
            f"--character-coverage {args.character_coverage}: between 0.9 and 1 "
            "(0.9995 for Chinese, Japanese, Korean; 1 for small alphabets)"
        )
    for symbol in args.symbols:
        if symbol in FAIRSEQ_SPECIALS or len(symbol.split()) != 1 or symbol != symbol.strip():
            raise UserError(
                f"--symbols {symbol!r}: a word without white space, other than "
                f"{' '.join(FAIRSEQ_SPECIALS)}, which are always there"
            )
        if args.dialog and symbol in MARKS:
            raise UserError(f"--symbols {symbol}: --dialog brings it; leave it out")
    if len(set(args.symbols)) != len(args.symbols):
        raise UserError(f"--symbols {' '.join(args.symbols)}: each may stand there once")


class TrainingLines:
    """The lines that SentencePiece sees; they can be iterated several times.

    Args:
        paths: text files.
        max_lines: at most so many lines are used, evenly spread over all files.
        max_bytes: longer lines are cut between words; SentencePiece itself would leave them
            out, and it looks at one word at a time anyway.
        read: a function from a path to its lines.

    Raises:
        UserError: a line is not UTF-8.
    """

    def __init__(
        self,
        paths: list[str],
        max_lines: int,
        max_bytes: int,
        read: Callable[[str], Iterator[str]] = read_text_lines,
    ) -> None:
        self._paths = paths
        self._read = read
        self._max_bytes = max_bytes
        self.num_lines = sum(1 for path in paths for line in read(path) if line.strip())
        self.num_used = min(self.num_lines, max_lines)
        self.step = self.num_lines / self.num_used if self.num_used else 1
        self.num_long_words = 0

    def __iter__(self) -> Iterator[str]:
        self.num_long_words = 0
        lines = (line for path in self._paths for line in self._read(path) if line.strip())
        for number, line in enumerate(lines):
            # Line n is taken where n * used / all steps over a whole number.
            taken = (number + 1) * self.num_used // self.num_lines
            if taken != number * self.num_used // self.num_lines:
                yield from self._cut(line)

    def _cut(self, line: str) -> Iterator[str]:
        if len(line) * 4 <= self._max_bytes or len(line.encode()) <= self._max_bytes:
            yield line
            return
        words, size = list[str](), 0
        for word in line.split():
            width = len(word.encode()) + 1
            if width > self._max_bytes:
                self.num_long_words += 1
                continue
            if words and size + width > self._max_bytes:
                yield " ".join(words)
                words, size = [], 0
            words.append(word)
            size += width
        if words:
            yield " ".join(words)


def num_marks(args: argparse.Namespace) -> int:
    """Return how many of the dictionary's entries are not SentencePiece's."""
    return len(MARKS) if args.dialog else 0


def _train(sentencepiece: Any, sentences: TrainingLines, args: argparse.Namespace) -> bytes:
    """Return a trained model as bytes."""
    logger.info("training %s on %d lines", args.type, sentences.num_used)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=args.vocab_size - num_marks(args),
            model_type=args.type,
            character_coverage=args.character_coverage,
            byte_fallback=not args.no_byte_fallback,
            normalization_rule_name=args.normalization,
            # A control symbol is never matched in a text, nor learnt as a piece.
            control_symbols=["<pad>", *args.symbols],
            max_sentence_length=args.max_sentence_length,
            num_threads=args.workers,
            minloglevel=1,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(_reworded(str(error), args)) from error
    return model.getvalue()


def _reworded(message: str, args: argparse.Namespace) -> str:
    """Return SentencePiece's error in one line, with the remedy where it is a known one."""
    highest = re.search(r"set it to a value <= (\d+)", message)
    if highest:
        return (
            f"--vocab-size {args.vocab_size}: the text is too small for so many pieces; "
            f"at most {int(highest.group(1)) + num_marks(args)}"
        )
    lowest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if lowest:
        return (
            f"--vocab-size {args.vocab_size}: special, byte and letter pieces alone need "
            f"{int(lowest.group(1)) + num_marks(args)}; raise it, or lower --character-coverage"
        )
    return "SentencePiece: " + " ".join(message.split())


def _count_pieces(
    processor: Any, sentences: Iterable[str], args: argparse.Namespace
) -> Counter[int]:
    counts: Counter[int] = Counter()
    lines = iter(sentences)
    with progress_bar(None, " lines", "counting pieces", disable=args.quiet) as bar:
        while batch := list(itertools.islice(lines, _COUNT_LINES_AT_A_TIME)):
            for ids in processor.encode(batch, num_threads=args.workers):
                counts.update(ids)
            bar.update(len(batch))
    return counts


def write_model(
    processor: Any,
    model: bytes,
    counts: Counter[int],
    prefix: str,
    dictionary: str,
    dialog: bool = False,
) -> None:
    """Write PREFIX.vocab, dict.txt and, last, PREFIX.model; each whole or not at all.

    Raises:
        UserError: a piece holds white space, which fairseq would take for two.
    """
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    for piece in pieces:
        if piece.split() != [piece]:
            raise UserError(
                f"the model has a piece with white space, {piece!r}, which fairseq cannot hold; "
                "use --normalization nmt_nfkc, or clean the text with `fairtale stories`"
            )
    with whole_file(f"{prefix}.vocab") as stream:
        for index, piece in enumerate(pieces):
            stream.write(f"{piece}\t{processor.get_score(index):g}\n")
    entries = [(p, counts[i]) for i, p in enumerate(pieces) if p not in FAIRSEQ_SPECIALS]
    with whole_file(dictionary) as stream:
        for piece, count in add_marks(entries) if dialog else entries:
            stream.write(f"{piece} {count}\n")
    with whole_file(f"{prefix}.model", "wb") as stream:
        stream.write(model)

"""Train a SentencePiece model on text with one sentence or story a line.

The verb writes PREFIX.model, PREFIX.vocab, and a dict.txt for fairseq-preprocess --srcdict. The
latter holds all pieces except <s>, <pad>, </s> and <unk>, which fairseq adds itself, so that
fairseq's dictionary has exactly --vocab-size entries. Counts in dict.txt are those of the
training lines.

By default, unknown characters are encoded as bytes, so no text is encoded as <unk>. Special symbols
such as </s> or <pad> in a text are encoded like any other characters.

With --dialog, the texts are dialogs as written by `fairtale dialogs`. The dictionary, but not the
SentencePiece model, then also holds <CTX> and <SEP>.
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

# The first entries of fairseq's Dictionary. SentencePiece itself defines all but <pad>.
FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_COUNT_LINES_AT_A_TIME = 2000
NORMALIZATIONS = ("identity", "nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("text", nargs="+", help="UTF-8 files, one sentence or story a line")
    parser.add_argument("--model", required=True, metavar="PREFIX", help="PREFIX.model is written")
    parser.add_argument(
        "--dict",
        metavar="FILE",
        help="fairseq dictionary to write (default: dict.txt beside the model)",
    )
    parser.add_argument(
        "--vocab-size",
        type=positive_int,
        default=5120,
        metavar="N",
        help="size of the vocabulary, including special and byte pieces (default: %(default)s)",
    )
    parser.add_argument(
        "--type",
        choices=("bpe", "unigram", "char", "word"),
        default="bpe",
        help="type of the model (default: %(default)s)",
    )
    parser.add_argument(
        "--character-coverage",
        type=float,
        default=0.99995,
        metavar="SHARE",
        help="share of the characters of the text that have a piece of their own; others become "
        "bytes (0.9995 for Chinese, Japanese, Korean; 1 for small alphabets; default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--no-byte-fallback",
        action="store_true",
        help="encode rare characters as <unk> instead of bytes (saves 256 vocabulary entries)",
    )
    parser.add_argument(
        "--normalization",
        default="identity",
        choices=NORMALIZATIONS,
        help="Unicode normalization of the text that is encoded; all but identity change it, such "
        "as zero-width joiners of Persian and of emoji (default: %(default)s)",
    )
    parser.add_argument(
        "--symbols",
        nargs="*",
        default=[],
        metavar="S",
        help="special symbols, e.g. '<SEP>' '<CTX>': single vocabulary entries that are never "
        "matched in a text",
    )
    parser.add_argument(
        "--dialog",
        action="store_true",
        help="lines are turns separated by tabs: learn from the queries and responses, and add "
        f"{' and '.join(MARKS)} to the dictionary",
    )
    parser.add_argument(
        "--max-lines",
        type=positive_int,
        default=1_000_000,
        metavar="N",
        help="maximum number of lines to train on, evenly spread (default: %(default)s)",
    )
    parser.add_argument(
        "--max-sentence-length",
        type=positive_int,
        default=65536,
        metavar="N",
        help="maximum length of a line in bytes; longer lines are split between words, longer "
        "words are skipped and counted (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=usable_cpus(),
        metavar="N",
        help="number of threads (default: all CPUs)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    import sentencepiece

    _check(args)
    read = read_sides if args.dialog else read_text_lines
    sentences = TrainingLines(args.text, args.max_lines, args.max_sentence_length, read)
    if not sentences.num_lines:
        raise UserError(f"{', '.join(args.text)}: holds no text to train on")
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
    """Return the path of the dictionary."""
    return args.dict or os.path.join(os.path.dirname(args.model), "dict.txt")


def _check(args: argparse.Namespace) -> None:
    if not 0.9 <= args.character_coverage <= 1.0:
        raise UserError(
            f"--character-coverage {args.character_coverage}: must be between 0.9 and 1 "
            "(0.9995 for Chinese, Japanese, Korean; 1 for small alphabets)"
        )
    check_symbols(args)


def check_symbols(args: argparse.Namespace) -> None:
    """Check ``--symbols``.

    Raises:
        UserError: a symbol is not a single word, is given twice, or is always included.
    """
    for symbol in args.symbols:
        if symbol in FAIRSEQ_SPECIALS or len(symbol.split()) != 1 or symbol != symbol.strip():
            raise UserError(
                f"--symbols {symbol!r}: must be a word without white space, other than "
                f"{' '.join(FAIRSEQ_SPECIALS)}, which are always included"
            )
        if args.dialog and symbol in MARKS:
            raise UserError(f"--symbols {symbol}: --dialog already adds it; leave it out")
    if len(set(args.symbols)) != len(args.symbols):
        raise UserError(f"--symbols {' '.join(args.symbols)}: give each symbol only once")


class TrainingLines:
    """The lines for training SentencePiece, as an iterable that can be iterated several times.

    Args:
        paths: text files.
        max_lines: maximum number of lines, which are spread evenly over all files.
        max_bytes: longer lines are split between words. SentencePiece itself would skip them; the
            split has no other effect, because SentencePiece processes each word separately.
        read: a function that yields the lines of a file.

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
            # Take line n if n * num_used / num_lines passes a whole number there.
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
    """Return how many entries of the dictionary are not in the SentencePiece model."""
    return len(MARKS) if args.dialog else 0


def _train(sentencepiece: Any, sentences: TrainingLines, args: argparse.Namespace) -> bytes:
    """Train a model and return it as bytes."""
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
            # A control symbol is never matched in a text, and it is never learned as a piece.
            control_symbols=["<pad>", *args.symbols],
            max_sentence_length=args.max_sentence_length,
            num_threads=args.workers,
            minloglevel=1,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(_reworded(str(error), args)) from error
    return model.getvalue()


def _reworded(message: str, args: argparse.Namespace) -> str:
    """Return an error of SentencePiece as one line, with the remedy for known errors."""
    highest = re.search(r"set it to a value <= (\d+)", message)
    if highest:
        return (
            f"--vocab-size {args.vocab_size}: the text is too small for so many pieces; "
            f"give at most {int(highest.group(1)) + num_marks(args)}"
        )
    lowest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if lowest:
        return (
            f"--vocab-size {args.vocab_size}: special symbols, bytes and characters alone need "
            f"{int(lowest.group(1)) + num_marks(args)}; raise it, or learn the pieces with "
            "fairtale spm train and a lower --character-coverage"
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
    """Write PREFIX.vocab, dict.txt and, last, PREFIX.model, each atomically.

    Args:
        processor: the SentencePieceProcessor of the model.
        model: the content of PREFIX.model.
        counts: number of occurrences of each piece by its id.
        prefix: PREFIX.
        dictionary: path of the dictionary.
        dialog: add the marks of a dialog line to the dictionary.

    Raises:
        UserError: a piece contains white space, so that fairseq would read it as two.
    """
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    for piece in pieces:
        if piece.split() != [piece]:
            raise UserError(
                f"the model has a piece with white space, {piece!r}, which fairseq does not "
                "support; use --normalization nmt_nfkc, or clean the text with `fairtale stories`"
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

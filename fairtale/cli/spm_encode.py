"""Encode text as SentencePiece pieces, or decode pieces with --decode.

Each input line becomes one output line, in the same order. The work is distributed over several
processes. The number of lines is checked before the output file appears.

With --dialog, a line holds the turns of a dialog separated by tabs, with the response last. It
becomes `context <CTX> query <SEP> response`, and each turn is encoded by itself. Lines without a
response are left out, counted and reported.
"""

import argparse
import functools
import os
from typing import Any

from ..errors import UserError
from .encode_files import Converter, add_shared_arguments, convert_files, source_target_pairs
from .spm_dialog import UNKNOWN_PIECE, DialogEncoder, Encoded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("text", nargs="+", help="UTF-8 files; - for standard input")
    parser.add_argument("--model", required=True, metavar="FILE", help="a .model file")
    add_shared_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    pairs = source_target_pairs(args)
    _load(args.model)  # report a bad model here once, and not in every worker
    make = functools.partial(
        _make_converter, args.model, args.decode, args.max_unknown if args.dialog else None
    )
    convert_files(args, pairs, make)


def _make_converter(model: str, decode: bool, max_unknown: int | None) -> Converter:
    """Return the converter of lines; ``max_unknown`` is None unless the lines are dialogs."""
    processor = _load(model)
    if max_unknown is not None:
        return DialogEncoder(SentencePieces(processor), max_unknown)
    return _Decoder(processor) if decode else _Encoder(processor)


def _load(path: str) -> Any:
    """Return the processor of a SentencePiece model.

    Raises:
        UserError: the file does not exist, or it is not a SentencePiece model.
    """
    import sentencepiece

    if not os.path.isfile(path):
        raise UserError(f"--model {path}: no such file; `fairtale spm train` makes one")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (RuntimeError, OSError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"--model {path}: not a SentencePiece model ({message})") from None


class SentencePieces:
    """Encode texts as lists of pieces, with ``<unk>`` for what is unknown.

    Args:
        processor: a SentencePieceProcessor.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        # Encode to ids and not to strings: SentencePiece returns an unknown piece as it is
        # spelled in the text, so a text could produce fairseq's `</s>` or a mark.
        self._pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        self._pieces[processor.unk_id()] = UNKNOWN_PIECE

    def __call__(self, texts: list[str]) -> list[list[str]]:
        """Return the pieces of each text."""
        return [[self._pieces[i] for i in ids] for ids in self._processor.encode(texts)]


class _Encoder:
    """Encode lines of text as lines of pieces."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        self._unknown = processor.unk_id()

    def __call__(self, lines: list[str]) -> Encoded:
        """Return the encoded lines and the numbers of pieces."""
        # Encode to ids and not to strings: SentencePiece returns an unknown piece as it is
        # spelled in the text, so a text could produce fairseq's `</s>`.
        encoded = self._processor.encode(lines)
        num_unknown = sum(ids.count(self._unknown) for ids in encoded)
        texts = [" ".join([self._pieces[i] for i in ids]) for ids in encoded]
        return Encoded(texts, sum(map(len, encoded)), num_unknown)


class _Decoder:
    """Decode lines of pieces to lines of text; words that are not pieces of the model stay."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, lines: list[str]) -> Encoded:
        """Return the decoded lines and the numbers of pieces."""
        split = [line.split() for line in lines]
        texts = [self._processor.decode(pieces) if pieces else "" for pieces in split]
        # Byte pieces may decode to line breaks; replace them, so that one line stays one line.
        texts = [" ".join(text.splitlines()) if text else "" for text in texts]
        return Encoded(texts, sum(map(len, split)), 0)

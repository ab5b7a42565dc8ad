"""Load the dictionary of data folders and the tokenizer that is stored beside the data."""

import logging
import os
from argparse import Namespace
from typing import Any

from fairseq.data import Dictionary, encoders
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

from ...errors import UserError
from .byte_level import ByteLevelBPE
from .byte_level_files import TOKENIZER_JSON, load_byte_level
from .tokenizer_dictionary import read_dictionary
from .vocabulary import SPACE, decode_pieces

logger = logging.getLogger(__name__)


def load_dictionary(paths: list[str], name: str, maker: str) -> Dictionary:
    """Return the dictionary of one or several data folders, which must be the same in all.

    Args:
        paths: the data folders.
        name: file name of the dictionary in each folder.
        maker: the command that makes such folders, for the error message.

    Raises:
        UserError: a dictionary is missing or damaged, or the dictionaries differ.
    """
    found = []
    for path in (os.path.join(path, name) for path in paths):
        if not os.path.isfile(path):
            raise UserError(f"{path} does not exist: make the folder with {maker}")
        try:
            found.append(read_dictionary(path))
        except (ValueError, RuntimeError) as error:  # also for bad UTF-8
            raise UserError(f"{path} is not a dictionary of fairseq: {error}") from error
        if found[-1] != found[0]:
            raise UserError(
                f"{path} differs from the first folder's {name}: all folders need the same one"
            )
    return found[0]


def build_pieces(args: Any, path: str | None = None) -> Any:
    """Return the subword tokenizer of ``--bpe``, or else the one at ``path``.

    Args:
        args: the options of ``--bpe``, as a namespace or as fairseq's config of that choice.
        path: a SentencePiece model or the ``tokenizer.json`` of a byte-level BPE, used if
            ``--bpe`` is not given.

    Returns:
        fairseq's encoder with ``encode`` and ``decode``; None if neither is given.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    if getattr(args, "_name", None) is None and not getattr(args, "bpe", None):
        if path is None:
            return None
        logger.info("tokenizer: %s", path)
        if os.path.basename(path) == TOKENIZER_JSON:
            return load_byte_level(path)
        args = Namespace(bpe="sentencepiece", sentencepiece_model=path)
    try:
        bpe = encoders.build_bpe(args)
    except (RuntimeError, OSError) as error:
        name = getattr(args, "sentencepiece_model", None) or "--bpe"
        raise UserError(f"the tokenizer {name} cannot be loaded: {error}") from error
    if isinstance(bpe, SentencepieceBPE):
        # fairseq's decoder leaves byte pieces such as <0xF0> in the text. decode_pieces joins
        # them, and it needs no model, so it also decodes the pieces of another tokenizer, such
        # as those of the target language of a translation.
        bpe.decode = decode_pieces
    return bpe


def decode_continuation(bpe: Any, pieces: str) -> str:
    """Return the text of pieces that continue another text, with the space before a new word.

    Args:
        bpe: fairseq's encoder.
        pieces: pieces that are separated by spaces.
    """
    if isinstance(bpe, ByteLevelBPE):
        return bpe.decode_continuation(pieces)
    text: str = bpe.decode(pieces)
    return " " + text if pieces.startswith(SPACE) else text


def encode_inside(bpe: Any, word: str) -> str:
    """Return the pieces of a word behind a space, as it is encoded inside a text.

    SentencePiece encodes it so anyway.
    """
    pieces: str = bpe.encode(" " + word if isinstance(bpe, ByteLevelBPE) else word)
    return pieces

"""The dictionary that data folders share, and the tokenizer that lies beside their data."""

import logging
import os
from argparse import Namespace
from typing import Any

from fairseq.data import Dictionary, encoders
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

from ...errors import UserError
from .vocabulary import decode_pieces

logger = logging.getLogger(__name__)


def load_dictionary(paths: list[str], name: str, maker: str) -> Dictionary:
    """Load the dictionary that all data folders have to share.

    Args:
        paths: the folders.
        name: of the file in each of them.
        maker: what makes such folders, for the error.

    Raises:
        UserError: one is missing or damaged, or they differ.
    """
    found = []
    for path in (os.path.join(path, name) for path in paths):
        if not os.path.isfile(path):
            raise UserError(f"{path} does not exist: make the folder with {maker}")
        try:
            found.append(Dictionary.load(path))
        except (ValueError, RuntimeError) as error:  # fairseq's own, also for bad UTF-8
            raise UserError(f"{path} is no dictionary of fairseq: {error}") from error
        if found[-1] != found[0]:
            raise UserError(f"{path} differs from the first folder's {name}: use one for all")
    return found[0]


def build_pieces(args: Any, path: str | None = None) -> Any:
    """Build the pieces that ``--bpe`` names, else those of the SentencePiece model at ``path``.

    Args:
        args: the options of ``--bpe``, as a namespace or as fairseq's config of the choice.
        path: of a model, where no option names one.

    Returns:
        fairseq's encoder with ``encode`` and ``decode``; None if there is neither.

    Raises:
        UserError: they cannot be loaded.
    """
    if getattr(args, "_name", None) is None and not getattr(args, "bpe", None):
        if path is None:
            return None
        logger.info("tokenizer: %s", path)
        args = Namespace(bpe="sentencepiece", sentencepiece_model=path)
    try:
        bpe = encoders.build_bpe(args)
    except (RuntimeError, OSError) as error:
        name = getattr(args, "sentencepiece_model", None) or "--bpe"
        raise UserError(f"the tokenizer {name} cannot be loaded: {error}") from error
    if isinstance(bpe, SentencepieceBPE):
        # fairseq's writes <0xF0> where a character was meant; this one needs no model, so it
        # also joins the pieces of another tokenizer, such as those of a translation
        bpe.decode = decode_pieces
    return bpe

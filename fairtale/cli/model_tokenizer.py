"""Find the tokenizer and the dictionary of a model, and check that they belong together."""

import hashlib
import os
from pathlib import Path

from ..data.corpus.byte_level_files import TOKENIZER_JSON, load_byte_level
from ..errors import UserError

DICTIONARY = "dict.txt"


def find_model(path: str) -> tuple[str, str]:
    """Return the paths of a model's tokenizer and dictionary, after checking that they agree.

    Raises:
        UserError: a file is missing, or the ids of the tokenizer and of the dictionary differ.
    """
    from ..data.corpus.tokenizer import load_dictionary  # imports fairseq, which takes seconds

    folder = path if os.path.isdir(path) else os.path.dirname(path)
    tokenizer = os.path.join(path, TOKENIZER_JSON) if os.path.isdir(path) else path
    for file in (tokenizer, os.path.join(folder, DICTIONARY)):
        if not os.path.isfile(file):
            raise UserError(
                f"--tokenizer {path}: {file} does not exist; give the folder of a model that "
                "`fairtale gpt2 import` or `fairtale bpe train` has made"
            )
    maker = "fairtale gpt2 import, or fairtale bpe train"
    symbols = load_dictionary([folder or "."], DICTIONARY, maker).symbols
    pieces = load_byte_level(tokenizer).pieces
    if len(pieces) > len(symbols):
        raise UserError(
            f"--tokenizer {path}: the tokenizer has {len(pieces)} entries, and {DICTIONARY} only "
            f"{len(symbols)}; they must be of one model"
        )
    for index, piece in enumerate(pieces):
        if symbols[index] != piece:
            raise UserError(
                f"--tokenizer {path}: entry {index} is {piece!r} in the tokenizer and "
                f"{symbols[index]!r} in {DICTIONARY}; they must be of one model"
            )
    return tokenizer, os.path.join(folder, DICTIONARY)


def checksums(*paths: str) -> str:
    """Return a checksum of each file, for settings."""
    return " ".join(hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in paths)

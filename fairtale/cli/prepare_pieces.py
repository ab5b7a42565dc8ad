"""Learn the pieces of a corpus and encode it, for the verbs ``fairtale prepare ...``."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..data.corpus.text_lines import read_text_lines
from .prepare import BYTE_LEVEL, IDENTITY, call


class Pieces(NamedTuple):
    """How the pieces of a corpus are learned and encoded, by the value of ``--bpe``."""

    bpe: str
    made: str  # the folder for the tokenizer
    dictionary: str  # path of the dictionary
    workers: int
    normalization: str | None = None  # of SentencePiece; None: identity

    def learn(self, texts: Sequence[str], vocab_size: str, *options: str) -> None:
        """Learn pieces from texts, and write the tokenizer and the dictionary."""
        words = [*texts, "--dict", self.dictionary, "--vocab-size", vocab_size, *options]
        if self.bpe == BYTE_LEVEL:
            call("bpe", "train", *words, "--output", self.made)
        else:
            model = os.path.join(self.made, "sentencepiece.bpe")
            words += ["--normalization", self.normalization or IDENTITY]
            call("spm", "train", *words, "--model", model, "--workers", str(self.workers))

    def encode(self, texts: Sequence[str], folder: str, *options: str) -> None:
        """Encode texts to files of the same names in a folder."""
        words = [*texts, "--output-dir", folder, "--workers", str(self.workers), *options]
        if self.bpe == BYTE_LEVEL:
            tokenizer = os.path.join(self.made, "tokenizer.json")
            call("bpe", "encode", *words, "--tokenizer", tokenizer)
        else:
            model = os.path.join(self.made, "sentencepiece.bpe.model")
            call("spm", "encode", *words, "--model", model)

    def count_original_bytes(self, texts: Mapping[str, str]) -> None:
        """Write the bytes of the texts of subsets beside the data, if the tokenizer changes them.

        Args:
            texts: the path of the text of each subset; tabs separate turns.
        """
        if self.bpe == BYTE_LEVEL or self.normalization in (None, IDENTITY):
            return
        import sentencepiece

        from ..data.corpus.original_bytes import count_bytes, write_counts

        model = os.path.join(self.made, "sentencepiece.bpe.model")
        processor = sentencepiece.SentencePieceProcessor(model_file=model)
        counts = {}
        for subset, path in texts.items():
            turns = (turn for line in read_text_lines(path) for turn in line.split("\t"))
            counts[subset] = count_bytes(turns, processor.normalize)
        write_counts(self.made, counts)

"""``byte_level``: byte-level BPE as of GPT-2, by the library ``tokenizers``."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from fairtale.data.corpus.byte_level import ByteLevelBPE
from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.errors import UserError


@dataclass
class ByteLevelConfig(FairseqDataclass):
    """Options of ``byte_level``."""

    byte_level_tokenizer: Optional[str] = field(
        default=None,
        metadata={
            "help": "tokenizer.json of a byte-level BPE, or a folder with this file or with "
            "vocab.json and merges.txt"
        },
    )


@register_bpe("byte_level", dataclass=ByteLevelConfig)
class ByteLevel:
    """Encode text as pieces in GPT-2's byte alphabet, and decode it byte for byte."""

    @staticmethod
    def build_bpe(cfg: ByteLevelConfig) -> ByteLevelBPE:
        """Load the tokenizer.

        Raises:
            UserError: the tokenizer is missing, or is not byte-level BPE.
        """
        if not cfg.byte_level_tokenizer:
            raise UserError("--bpe byte_level: name the tokenizer.json with --byte-level-tokenizer")
        return load_byte_level(cfg.byte_level_tokenizer)

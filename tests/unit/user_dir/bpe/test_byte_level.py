"""``--bpe byte_level`` in fairseq's registry."""

from argparse import Namespace

import pytest
from fairseq.data import encoders
from omegaconf import OmegaConf

from fairtale.errors import UserError
from tests.byte_level_helpers import write_json
from user_dir.bpe.byte_level import ByteLevelConfig


def test_fairseq_builds_it(tmp_path):
    path = str(write_json(tmp_path))
    cfg = OmegaConf.structured(ByteLevelConfig(byte_level_tokenizer=path))
    options = Namespace(bpe="byte_level", byte_level_tokenizer=path)
    for given in (options, OmegaConf.merge(cfg, {"_name": "byte_level"})):
        bpe = encoders.build_bpe(given)
        assert bpe.encode("the<|end|> th") == "th e <|end|> Ġth"
        assert bpe.decode("th e <|end|> Ġth") == "the<|end|> th"
        assert bpe.is_beginning_of_word("Ġth")


def test_the_file_must_be_named():
    with pytest.raises(UserError, match="name the tokenizer.json with --byte-level-tokenizer"):
        encoders.build_bpe(Namespace(bpe="byte_level"))

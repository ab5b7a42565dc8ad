"""Architectures that a Hydra config names."""

import pytest
from fairseq.dataclass import initialize
from omegaconf import OmegaConf

import user_dir
from tests.compat_helpers import pristine

assert user_dir  # registers the architectures


@pytest.mark.parametrize(
    "model, width, layers, ffn",
    [
        ({"_name": "gpt_tiny"}, 128, 4, 512),
        ({"_name": "unilm_seq2seq_tiny"}, 128, 4, 512),
        ({"_name": "gpt_tiny", "decoder_layers": 7}, 128, 7, 512),
        ({"_name": "gpt"}, 768, 12, 3072),
    ],
)
def test_the_config_of_an_architecture_has_its_shape(model, width, layers, ffn):
    cfg = OmegaConf.create({"model": model})
    initialize.add_defaults(cfg)
    assert cfg.model._name == model["_name"] and cfg.model.dropout == 0.1
    found = [cfg.model[f"decoder_{name}"] for name in ("embed_dim", "layers", "ffn_embed_dim")]
    assert found == [width, layers, ffn]
    before = OmegaConf.to_container(cfg)
    initialize.add_defaults(cfg)  # as on a command line, where all values are given
    assert OmegaConf.to_container(cfg) == before


def test_fairseq_alone_ignores_the_architecture():
    """Remove the work-around when this test fails."""
    cfg = OmegaConf.create({"model": {"_name": "gpt_tiny"}})
    pristine("fairseq.dataclass.initialize").add_defaults(cfg)
    assert cfg.model.decoder_embed_dim == 768

"""The shapes of layers that the options of ``transformer_hcg`` define."""

from argparse import Namespace

import pytest

from fairtale.errors import UserError
from fairtale.pruning.transformer_hcg_config import (
    AttentionShape,
    GateSettings,
    LayerShape,
    TransformerHCGConfig,
    counts_of,
    layer_shapes,
    names_of,
)

GATE = GateSettings(temperature=0.5, low=-0.1, high=1.1, init_log_alpha=2.5, lr_scale=8.0)


def config(**options):
    shape = {"gated_attention": "", "gate_temperature": 0.5, "gate_lr_scale": 8.0}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_layers": 2, f"{side}_embed_dim": 16, f"{side}_ffn_embed_dim": 24}
        shape |= {f"{side}_attention_heads": 4}
        shape |= {f"{side}_layer_heads": "", f"{side}_layer_ffn": ""}
    return TransformerHCGConfig.from_namespace(Namespace(**{**shape, **options}))


def test_without_options_of_ours_nothing_is_gated_or_pruned():
    plain = AttentionShape(num_heads=4, head_dim=4, is_pruned=False, gate=None)
    assert layer_shapes(config(), "encoder") == [LayerShape(plain, None, 24)] * 2
    assert layer_shapes(config(), "decoder") == [LayerShape(plain, plain, 24)] * 2


def test_shapes_by_hand():
    cfg = config(
        gated_attention="cross,encoder",
        encoder_layer_heads="3,0",
        cross_layer_heads="1,4",
        encoder_layer_ffn="0,5",
    )
    assert layer_shapes(cfg, "encoder") == [
        LayerShape(AttentionShape(3, 4, True, GATE), None, 0),
        LayerShape(AttentionShape(0, 4, True, GATE), None, 5),
    ]
    plain = AttentionShape(4, 4, False, None)
    assert layer_shapes(cfg, "decoder") == [
        LayerShape(plain, AttentionShape(1, 4, True, GATE), 24),
        LayerShape(plain, AttentionShape(4, 4, True, GATE), 24),
    ]


def test_lists_of_options():
    assert names_of("--x", " b, a", ("a", "b")) == ["a", "b"] and names_of("--x", "", "a") == []
    with pytest.raises(UserError, match="--x a,c: c is none of a, b"):
        names_of("--x", "a,c", ("a", "b"))
    assert counts_of("--x", "3,0", 2) == [3, 0] and counts_of("--x", "", 2) is None
    for text in ("3", "1,x", "1,-1", ","):
        with pytest.raises(UserError, match=f"--x {text}: must be 2 whole numbers"):
            counts_of("--x", text, 2)

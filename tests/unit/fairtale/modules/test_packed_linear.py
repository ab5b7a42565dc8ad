"""Linear layers whose weights oneDNN has rearranged, against those that they replace."""

import copy

import pytest
import torch
from torch import nn
from torch.backends import mkldnn

from fairtale.modules import packed_linear
from fairtale.modules.lora import AdapterShape, LowRankLinear, add_adapters
from fairtale.modules.packed_linear import PackedLinear, can_pack, pack_layers
from fairtale.modules.row_cache import RowCache
from fairtale.modules.row_decoder import RowDecoder
from tests.helpers import random_rows, randomize, tiny_transformer

needs_onednn = pytest.mark.skipif(not mkldnn.is_available(), reason="torch has no oneDNN")


def cpu_of(monkeypatch, tmp_path, vendor):
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(packed_linear, "CPUINFO", tmp_path / "cpuinfo")


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_computes_the_same(bias):
    layer = randomize(nn.Linear(20, 13, bias=bias))
    packed = PackedLinear(layer.weight, layer.bias)
    for shape in ((1, 20), (5, 20), (2, 3, 20)):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(packed(x), layer(x), atol=1e-6, rtol=1e-5)
    assert not list(packed.parameters())


@needs_onednn
def test_layers_are_packed_but_not_adapters(monkeypatch, tmp_path):
    cpu_of(monkeypatch, tmp_path, "AuthenticAMD")
    plain = tiny_transformer(max_positions=40)
    add_adapters(plain, AdapterShape(2, 4.0, 0.0, ("fc1",)))
    randomize(plain, seed=3)
    packed = copy.deepcopy(plain)
    pack_layers(packed)
    found = [type(m) for m in packed.modules() if isinstance(m, nn.Linear | PackedLinear)]
    assert found.count(PackedLinear) == 6 and found.count(LowRankLinear) == 2 == len(found) - 6
    (row,) = random_rows([9])
    with torch.no_grad():
        torch.testing.assert_close(packed(row[None]), plain.eval()(row[None]), atol=2e-5, rtol=1e-4)


@needs_onednn
def test_logits_of_what_cannot_be_predicted(monkeypatch, tmp_path):
    cpu_of(monkeypatch, tmp_path, "AuthenticAMD")
    transformer = tiny_transformer(max_positions=40, num_predicted=20)
    decoder = RowDecoder(transformer, RowCache(transformer, 3, 40))
    assert type(transformer.layers[0].fc1) is PackedLinear
    features = torch.randn(3, 16)
    with torch.no_grad():
        expected = transformer.logits(features)
        torch.testing.assert_close(decoder.logits(features), expected, atol=1e-5, rtol=1e-5)
    assert expected[:, 20:].eq(-torch.inf).all()


def test_where_layers_are_packed(monkeypatch, tmp_path):
    weight = torch.zeros(3, 4)
    for vendor, expected in (("AuthenticAMD", mkldnn.is_available()), ("GenuineIntel", False)):
        cpu_of(monkeypatch, tmp_path, vendor)
        assert can_pack(weight) is expected
    cpu_of(monkeypatch, tmp_path, "AuthenticAMD")
    assert not can_pack(weight.bfloat16()) and not can_pack(weight.to("meta"))
    monkeypatch.setattr(packed_linear, "CPUINFO", tmp_path / "none")
    assert not can_pack(weight)

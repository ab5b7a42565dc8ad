"""Model FLOPs counted by hand, and the peaks that belong to the names of GPUs."""

from types import SimpleNamespace

import flops
import pytest

# products of 2x6, 2x2, 2x3, 3x2 in the layer, and 2x5 for the vocabulary
SHAPE, VOCAB = SimpleNamespace(width=2, inner=3, layers=1), 5


def test_products_of_an_update():
    assert sum(i * o for i, o in flops.product_sizes(VOCAB, SHAPE)) == 38
    products, all_of_them = flops.training_flops(VOCAB, SHAPE, rows=2, length=4)
    # 8 tokens, 3 products of 2 x 38; attention: 12 x 2 wide x 4 tokens x 8
    assert (products, all_of_them - products) == (8 * 3 * 2 * 38, 768)


def test_generation_of_three_tokens_after_two():
    # 2 + 2 tokens go through the layer, which attend to 1 + 2 + 3 + 4; 3 of them are projected
    assert flops.generation_flops(VOCAB, SHAPE, [2], 3) == 4 * 2 * 28 + 4 * 2 * 10 + 3 * 20


def test_a_beam_computes_the_prompt_once():
    expected = (2 + 4) * 2 * 28 + 4 * 2 * (3 + 2 * 7) + (1 + 2 * 2) * 20
    assert flops.generation_flops(VOCAB, SHAPE, [2], 3, beam=2) == expected
    assert flops.generation_flops(VOCAB, SHAPE, [2, 2], 3, beam=2) == 2 * expected


@pytest.mark.parametrize(
    ("name", "bf16", "fp16"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 989),
        ("NVIDIA H100 PCIe", 756, 756),
        ("NVIDIA H100 NVL", 835, 835),
        ("NVIDIA H200", 989, 989),
        ("NVIDIA H200 NVL", 835, 835),
        ("NVIDIA A100-SXM4-80GB", 312, 312),
        ("NVIDIA A100-PCIE-40GB", 312, 312),
        ("NVIDIA L4", 121, 121),
        ("Tesla T4", 0, 65),
        ("NVIDIA GeForce RTX 4090", 165, 165),
        # others are unknown, and measured
        ("NVIDIA L40S", 0, 0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0, 0),
        ("NVIDIA GeForce RTX 4090 D", 0, 0),
        ("NVIDIA GH200 480GB", 0, 0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0, 0),
    ],
)
def test_peaks_of_data_sheets(name, bf16, fp16):
    found = [flops.data_sheet_peak(name, precision) / 1e12 for precision in ("bf16", "fp16")]
    assert found == [bf16, fp16] and flops.data_sheet_peak(name, "fp32") == 0


def test_utilisation():
    assert flops.utilisation(5e12, 0.5, 40e12) == "25.0%"
    assert flops.utilisation(5e12, 0.5, 0.0) == ""

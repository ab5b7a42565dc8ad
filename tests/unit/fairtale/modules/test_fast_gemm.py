"""Tests of the choice of oneDNN for fp32 products."""

import pytest
import torch
from torch.backends import mkldnn

from fairtale.modules import fast_gemm

AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512bw avx512_bf16\n"


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Simulate a machine with the given processor."""

    def pretend(cpuinfo):
        file = tmp_path / "cpuinfo"
        file.write_text(cpuinfo)
        monkeypatch.setattr(fast_gemm, "CPUINFO", file)
        fast_gemm.use_onednn.cache_clear()

    yield pretend
    fast_gemm.use_onednn.cache_clear()


def test_processors():
    assert fast_gemm.is_slow_mkl_processor(AMD * 2)
    assert not fast_gemm.is_slow_mkl_processor(AMD.replace("AuthenticAMD", "GenuineIntel"))
    assert not fast_gemm.is_slow_mkl_processor(AMD.replace("avx512bw ", ""))
    assert not fast_gemm.is_slow_mkl_processor(AMD.replace("avx512f", "amx_bf16"))
    assert not fast_gemm.is_slow_mkl_processor("Processor : ARMv8\nFeatures : neon\n")


@pytest.mark.skipif(not mkldnn.is_available(), reason="this torch has no oneDNN")
def test_setting_is_put_back(processor, monkeypatch):
    processor(AMD)
    monkeypatch.setattr(fast_gemm, "_product_is_exact", lambda: True)
    before = mkldnn.matmul.fp32_precision
    with fast_gemm.fast_fp32_products():
        assert mkldnn.matmul.fp32_precision == "bf16"
    assert mkldnn.matmul.fp32_precision == before
    with pytest.raises(KeyError), fast_gemm.fast_fp32_products():
        raise KeyError
    assert mkldnn.matmul.fp32_precision == before


def test_not_used_where_products_are_rounded(processor, monkeypatch):
    processor(AMD)
    monkeypatch.setattr(fast_gemm, "_product_is_exact", lambda: False)
    before = mkldnn.matmul.fp32_precision
    with fast_gemm.fast_fp32_products():
        assert mkldnn.matmul.fp32_precision == before


def test_probe_notices_rounding(monkeypatch):
    """The probe detects operands that are rounded to bf16."""
    plain = torch.Tensor.__matmul__

    def rounded(a, b):
        if a.is_floating_point():
            return plain(a.bfloat16().float(), b.bfloat16().float())
        return plain(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not fast_gemm._product_is_exact()


def test_products_keep_fp32_precision():
    """With either library, errors are those of fp32 (1e-7), not of bf16 (1e-3)."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 700, generator=generator)
    b = torch.randn(700, 500, generator=generator)
    exact = a.double() @ b.double()
    with fast_gemm.fast_fp32_products():
        products = a @ b, (b.t() @ a.t()).t(), torch.addmm(torch.zeros(500), a, b)
    for product in products:
        assert (product - exact).norm() / exact.norm() < 1e-6


@pytest.mark.skipif(not mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("exact", [True, False])
def test_a_process_chooses_once_and_only_where_products_stay_exact(processor, monkeypatch, exact):
    processor(AMD)
    monkeypatch.setattr(fast_gemm, "_product_is_exact", lambda: exact)
    before = mkldnn.matmul.fp32_precision
    try:
        fast_gemm.choose_fast_fp32_products()
        assert mkldnn.matmul.fp32_precision == ("bf16" if exact else before)
    finally:
        mkldnn.matmul.fp32_precision = before


@pytest.mark.parametrize("rows, inner, columns", [(1, 512, 512), (33, 65, 129), (512, 256, 1536)])
def test_chosen_products_are_exact_in_every_layout(rows, inner, columns):
    """Integers of 11 bits are exact in the layouts of the forward pass and of both gradients."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randint(-2047, 2048, (rows, inner), generator=generator).float()
    narrow = torch.randint(-2, 3, (inner, columns), generator=generator).float()
    expected = wide.double() @ narrow.double()
    before = mkldnn.matmul.fp32_precision
    try:
        fast_gemm.choose_fast_fp32_products()
        plain = wide @ narrow
        linear = torch.nn.functional.linear(wide, narrow.t().contiguous(), torch.zeros(columns))
        turned = (narrow.t() @ wide.t()).t()
    finally:
        mkldnn.matmul.fp32_precision = before
    for product in (plain, linear, turned):
        assert torch.equal(product.double(), expected)


def test_probe_runs_on_the_cpu_whatever_the_default_device_is():
    with torch.device("meta"):  # as for a model that is built on the meta device
        assert fast_gemm._product_is_exact() in (True, False)

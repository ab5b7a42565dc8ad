"""Compute exact fp32 matrix products with oneDNN where torch's default library is slow."""

import functools
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.backends import mkldnn

logger = logging.getLogger(__name__)

CPUINFO = Path("/proc/cpuinfo")


def is_slow_mkl_processor(cpuinfo: str) -> bool:
    """Return whether MKL is slow, and oneDNN both fast and exact, on the given processor.

    MKL uses its AVX-512 kernels on Intel processors only; on others its fp32 products run at less
    than half the speed of oneDNN's. On a processor with AMX, the setting used below would make
    oneDNN round to bf16, so such a processor is excluded.

    Args:
        cpuinfo: content of Linux's ``/proc/cpuinfo``.
    """
    vendors = {line.split(":")[1].strip() for line in cpuinfo.splitlines() if "vendor_id" in line}
    flags = {
        flag
        for line in cpuinfo.splitlines()
        if line.startswith("flags")
        for flag in line.split(":")[1].split()
    }
    amx = any(flag.startswith("amx") for flag in flags)
    return bool(vendors) and "GenuineIntel" not in vendors and "avx512bw" in flags and not amx


def _set_precision(value: str) -> str:
    """Set the precision that oneDNN may use for fp32 products; return the previous setting."""
    settings: Any = mkldnn.matmul  # type: ignore[attr-defined]  # torch adds it when it starts
    before: str = settings.fp32_precision
    settings.fp32_precision = value
    return before


@contextmanager
def _through_onednn() -> Iterator[None]:
    """Within this block, compute fp32 products with oneDNN.

    The setting "bf16" only *allows* oneDNN to round its operands. Without AMX it has no such kernel
    and computes in fp32 (its log shows ``brg_matmul:avx512_core, src:f32 wei:f32``).
    """
    before = _set_precision("bf16")
    try:
        yield
    finally:
        _set_precision(before)


def _product_is_exact() -> bool:
    """Return whether oneDNN multiplies integers exactly that fp32 represents, but bf16 does not."""
    # name the device, because the caller may have set another default device
    generator = torch.Generator("cpu").manual_seed(0)
    wide = torch.randint(-4095, 4096, (128, 256), generator=generator, device="cpu")
    narrow = torch.randint(-3, 4, (256, 512), generator=generator, device="cpu")
    # sums are at most 4095 * 3 * 256 < 2^24, hence exact in fp32 in every order of summation
    with _through_onednn():
        left = wide.float() @ narrow.float()
        right = narrow.t().float() @ wide.t().float()
    expected = wide @ narrow
    return torch.equal(left.long(), expected) and torch.equal(right.t().long(), expected)


def _has_onednn() -> bool:
    return bool(mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch's own


@functools.cache
def use_onednn() -> bool:
    """Return whether this process should compute fp32 products with oneDNN; decided once."""
    if platform.system() != "Linux" or not _has_onednn() or not CPUINFO.exists():
        return False
    if not is_slow_mkl_processor(CPUINFO.read_text()):
        return False
    exact = _product_is_exact()
    logger.info("fp32 matrix products %s", "through oneDNN" if exact else "as torch chooses")
    return exact


@contextmanager
def fast_fp32_products() -> Iterator[None]:
    """Within this block, compute fp32 products on the CPU with oneDNN where that is faster.

    The arithmetic stays fp32; only the order of summation differs from MKL's. The block has no
    effect on Intel processors, on processors without AVX-512, on other systems than Linux, and on a
    GPU.
    """
    if not use_onednn():
        yield
        return
    with _through_onednn():
        yield


def choose_fast_fp32_products() -> None:
    """Compute all fp32 products of this process as in a block of :func:`fast_fp32_products`.

    This includes the products of gradients. The setting affects the whole process, so it is chosen
    once, when the task is set up, and not when a model is built. On AMD processors with AVX-512,
    where MKL is slow, linear layers then run at twice the speed. Elsewhere nothing changes.
    """
    if use_onednn():
        _set_precision("bf16")
